// Command app tells as whom it runs.
package main

import (
	"fmt"
	"os"
)

func main() {
	dir, _ := os.Getwd()
	fmt.Println("user", os.Getuid(), "in", dir, "with", os.Getenv("SSL_CERT_FILE"))
}
