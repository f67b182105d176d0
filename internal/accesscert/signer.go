// SPDX-License-Identifier: Apache-2.0

package accesscert

import (
	"context"
	"crypto/x509"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What the conditions of CertificateSigningRequests give as their reason. The message
// of refused says which rule the request breaks.
const (
	verified = "NodeVerified"
	refused  = "RequestRefused"
)

// Signer approves and signs the requests of agents, and denies all others with its
// signer name. It checks approved ones too: whoever may approve cannot get a
// certificate for another node.
//
// It deletes nothing: kube-controller-manager removes requests an hour after they
// were signed or denied, and after a day otherwise.
type Signer struct {
	Client    client.Client
	Authority *Authority
	Namespace string // the operator's
}

// CacheConfig makes a cache hold only the requests for this signer.
func CacheConfig() cache.ByObject {
	return cache.ByObject{
		Field:     fields.OneTermEqualSelector("spec.signerName", SignerName),
		Transform: cache.TransformStripManagedFields(),
	}
}

// SetupWithManager adds the controller. Only the leader runs it.
func (s *Signer) SetupWithManager(mgr ctrl.Manager) error {
	err := ctrl.NewControllerManagedBy(mgr).Named("agent-certificates").
		For(&certificatesv1.CertificateSigningRequest{}).Complete(s)
	if err != nil {
		return fmt.Errorf("controller of agents' certificates: %w", err)
	}
	return nil
}

// Reconcile does one step for a request: approve or deny it, or sign it.
func (s *Signer) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	csr := &certificatesv1.CertificateSigningRequest{}
	if err := s.Client.Get(ctx, req.NamespacedName, csr); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if csr.Spec.SignerName != SignerName || len(csr.Status.Certificate) > 0 || csr.DeletionTimestamp != nil ||
		hasCondition(csr, certificatesv1.CertificateDenied) || hasCondition(csr, certificatesv1.CertificateFailed) {
		return ctrl.Result{}, nil
	}
	csr = csr.DeepCopy()
	wanted, problem := checkRequest(s.Namespace, csr.Spec)
	var err error
	switch approved := hasCondition(csr, certificatesv1.CertificateApproved); {
	case problem != nil && approved:
		setCondition(csr, certificatesv1.CertificateFailed, refused, problem.Error())
		err = s.Client.Status().Update(ctx, csr)
	case problem != nil:
		setCondition(csr, certificatesv1.CertificateDenied, refused, problem.Error())
		err = s.Client.SubResource("approval").Update(ctx, csr)
	case !approved:
		setCondition(csr, certificatesv1.CertificateApproved, verified, "The request comes from the agent of this node.")
		err = s.Client.SubResource("approval").Update(ctx, csr)
	default:
		err = s.sign(ctx, csr, wanted)
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil // the change comes through the watch
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("certificate signing request %s: %w", csr.Name, err)
	}
	return ctrl.Result{}, nil
}

// sign writes the certificate, followed by the CAs whose clients the agent accepts.
func (s *Signer) sign(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, wanted grant) error {
	now := s.Authority.issued()
	if now == nil {
		return ErrNotReady
	}
	der, err := now.authorities.current.sign(leaf{
		dnsNames: []string{AgentDNSName(wanted.node)}, usage: x509.ExtKeyUsageServerAuth, life: wanted.life,
	}, wanted.key, s.Authority.options.Clock.Now())
	if err != nil {
		return err
	}
	csr.Status.Certificate = append(encodeCerts(der), now.authorities.bundlePEM()...)
	return s.Client.Status().Update(ctx, csr)
}

func hasCondition(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	for _, c := range csr.Status.Conditions {
		if c.Type == kind {
			return true
		}
	}
	return false
}

func setCondition(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType, cause, message string) {
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: cause, Message: message, LastUpdateTime: metav1.Now(),
	})
}
