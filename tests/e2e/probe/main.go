// Probe is the program of a test pod: it serves its name, and asks others for theirs.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	switch os.Args[1] {
	case "serve":
		serve()
	case "get":
		client := http.Client{Timeout: 5 * time.Second}
		answer, err := client.Get(os.Args[2])
		exitOn(err)
		_, err = io.Copy(os.Stdout, answer.Body)
		exitOn(err)
	case "write":
		exitOn(os.WriteFile(os.Args[2], []byte("written"), 0o644))
	}
}

func serve() {
	name, err := os.Hostname()
	exitOn(err)
	fmt.Println("user", os.Getuid())
	go func() {
		exitOn(http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, name)
		})))
	}()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
}

func exitOn(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
