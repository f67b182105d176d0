// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"

	"botbottle.dev/bottle-operator/internal/supervise"
)

// maxOrders is the maximum size of the orders in bytes.
const maxOrders = 64 << 10

// readOrders reads the orders from the folder. Fields of a later release are ignored.
func readOrders(folder string) (supervise.Orders, error) {
	f, err := os.Open(filepath.Join(folder, supervise.OrdersFile))
	if err != nil {
		return supervise.Orders{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxOrders+1))
	if err != nil {
		return supervise.Orders{}, err
	}
	if len(text) > maxOrders {
		return supervise.Orders{}, errors.New("the orders are too large")
	}
	var o supervise.Orders
	return o, json.Unmarshal(text, &o)
}
