// SPDX-License-Identifier: Apache-2.0

package state

// EnvDiffers reports whether the literals differ from the recorded ones. It
// ignores a variable that fromUser does not name and the record lacks, or has with
// the value in earlier: the operator sets it, a newer release added or changed it,
// and the next machine gets it. Such a variable follows from the Bottle's addresses
// and spec.bundle.caPath, which the caller compares.
func (r *Record) EnvDiffers(literals map[string]string, fromUser map[string]bool, earlier map[string]string) bool {
	common := 0
	earlierHashes := Hashes(r.Salt, earlier)
	for name, hash := range Hashes(r.Salt, literals) {
		old, has := r.Env[name]
		switch {
		case has && (old == hash || !fromUser[name] && old == earlierHashes[name]):
			common++
		case has || fromUser[name]:
			return true
		}
	}
	return common != len(r.Env)
}

// SameSecretNames reports whether the record has exactly these secrets, whatever
// their values are.
func (r *Record) SameSecretNames(secrets map[string]string) bool {
	if len(r.Secrets) != len(secrets) {
		return false
	}
	for name := range secrets {
		if _, ok := r.Secrets[name]; !ok {
			return false
		}
	}
	return true
}
