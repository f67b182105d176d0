// SPDX-License-Identifier: Apache-2.0

package passes

import (
	"errors"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
)

// Resync is the pause between passes over a satisfied Bottle, ±10 percent.
const Resync = 10 * time.Minute

// restartPause is the pause before the next pass while a daemon is probably being restarted.
const restartPause = 2 * time.Second

// Result returns when the next pass is due after a pass that ended with err.
func Result(err error) (ctrl.Result, error) {
	if errors.Is(err, host.ErrRestarting) {
		return ctrl.Result{RequeueAfter: restartPause}, nil
	}
	switch o := flow.OutcomeOf(err); o.Kind {
	case flow.KindDone:
		return ctrl.Result{RequeueAfter: jitter(Resync)}, nil
	case flow.KindWait:
		if o.After > 0 {
			return ctrl.Result{RequeueAfter: o.After}, nil
		}
		return ctrl.Result{RequeueAfter: jitter(Resync)}, nil
	case flow.KindTerminal, flow.KindBlocked:
		return ctrl.Result{}, nil
	default:
		return RetryConflict(err)
	}
}

// ResultWithin is like Result, but makes the next pass due within d. If d is 0, it is the same
// as Result.
func ResultWithin(err error, d time.Duration) (ctrl.Result, error) {
	res, err := Result(err)
	if err == nil && d > 0 && (res.RequeueAfter == 0 || d < res.RequeueAfter) {
		res.RequeueAfter = d
	}
	return res, err
}

// RetryConflict turns a conflict into another pass soon, because the cache will
// have the newer object shortly. It returns any other error.
func RetryConflict(err error) (ctrl.Result, error) {
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: 50 * time.Millisecond}, nil
	}
	return ctrl.Result{}, err
}

func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}
