// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxConfigKeys bounds the fields of a config, each of which is kept in memory.
const maxConfigKeys = 1000

// flatConfig returns the config with a single layer. All other fields stay as
// they are.
func flatConfig(raw []byte, diffID v1.Hash) ([]byte, error) {
	in := json.NewDecoder(bytes.NewReader(raw))
	if start, err := in.Token(); err != nil || start != json.Delim('{') {
		return nil, errNoConfig
	}
	out := bytes.NewBufferString("{")
	for n := 0; in.More(); n++ {
		if n == maxConfigKeys {
			return nil, ownErrorf("its config has more than %d fields", maxConfigKeys)
		}
		key, err := in.Token()
		if err != nil {
			return nil, errNoConfig
		}
		var value json.RawMessage
		if err := in.Decode(&value); err != nil {
			return nil, errNoConfig
		}
		name, _ := key.(string) // a key of an object is a string
		// Readers ignore the case.
		if strings.EqualFold(name, "rootfs") || strings.EqualFold(name, "history") {
			continue
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, errNoConfig
		}
		fmt.Fprintf(out, "%s:%s,", quoted, value)
	}
	fmt.Fprintf(out, `"rootfs":{"type":"layers","diff_ids":["%s"]},"history":[{"created_by":"bottle-operator","comment":"all layers in one"}]}`, diffID)
	return out.Bytes(), nil
}

var errNoConfig = ownErrorf("its config is not JSON")
