// Threads that fork: four goroutines, each on a thread of its own, start so many children one after the
// other and print what these say.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
)

const threads = 4

func main() {
	steps, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	var all sync.WaitGroup
	for number := 0; number < threads; number++ {
		all.Add(1)
		go func(number int) {
			defer all.Done()
			runtime.LockOSThread()
			for step := 0; step < steps; step++ {
				said, err := exec.Command("echo", fmt.Sprint(number, " ", step)).Output()
				if err != nil {
					panic(err)
				}
				fmt.Print(string(said))
			}
		}(number)
	}
	all.Wait()
}
