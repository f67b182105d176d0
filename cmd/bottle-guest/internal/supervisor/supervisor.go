// SPDX-License-Identifier: Apache-2.0

// Package supervisor runs a workload in a guest, as the first process of its container
// or as any other process: it starts the command, reaps processes, passes signals on,
// starts the command again, reports to the node and lets clients in the same guest
// attach. Its standard output has the workload's output and the beginning and end of
// each run. It needs no /proc, no folder that can be written and no privileges.
package supervisor

import (
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"botbottle.dev/bottle-operator/internal/supervise"
)

// Options say what to supervise.
type Options struct {
	// Argv is the command; it has at least one element.
	Argv, Env []string
	// In and Out are the folders with the orders and for the report.
	In, Out string
	// Log gets the output.
	Log   io.Writer
	Clock Clock // nil for the real one
}

const (
	// ordersEvery is how often the orders are read while there is nothing to run.
	ordersEvery = 200 * time.Millisecond
	// reportEvery is how often a report is repeated that could not be written, and how
	// often a growing number of lost bytes is reported.
	reportEvery   = time.Second
	flushPatience = 2 * time.Second
)

// Supervisor supervises one workload. Its fields belong to the goroutine of Run,
// except for the parts that have their own locks.
type Supervisor struct {
	argv, env []string
	in        string
	clock     Clock
	log       *logger
	hub       *hub
	input     *input
	children  *children
	file      reportFile
	signals   chan os.Signal
	stops     chan stopRequest
	idle      atomic.Bool // there is no workload to attach to

	orders  supervise.Orders
	report  supervise.Report
	dirty   bool // the report file does not have report yet
	failed  bool // a failure to write the report was logged
	waiting []stopRequest
	killAt  time.Time // when a workload that is being stopped is killed
	stopped bool      // the workload is not started again
	ending  bool      // the supervisor got SIGTERM
	pause   time.Duration
}

// Run supervises until SIGTERM. It returns the exit code of the program.
func Run(o Options) int {
	s := newSupervisor(o)
	signal.Notify(s.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	// These must not end the program, but must not be ignored either: programs that
	// it starts would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGTSTP)
	return s.run()
}

func newSupervisor(o Options) *Supervisor {
	if o.Clock == nil {
		o.Clock = realClock{}
	}
	return &Supervisor{
		argv: o.Argv, env: o.Env, in: o.In, clock: o.Clock,
		log: newLogger(o.Clock, o.Log), hub: &hub{}, input: &input{}, children: newChildren(), file: newReportFile(o.Out),
		signals: make(chan os.Signal, 16), stops: make(chan stopRequest),
	}
}

func (s *Supervisor) run() int {
	s.awaitOrders()
	for n := 1; !s.over(); n++ {
		policy := s.runOnce(n)
		if s.over() || !startAgain(policy, s.report.ExitCode == nil || *s.report.ExitCode != 0) {
			break
		}
		s.rest()
	}
	s.finish()
	for !s.ending {
		s.await(time.Time{}, nil)
		s.answerStops()
	}
	s.log.flush(flushPatience)
	return 128 + int(syscall.SIGTERM)
}

// over reports whether there will be no other run.
func (s *Supervisor) over() bool { return s.stopped || s.ending }

// awaitOrders waits until the orders are to run the workload, or until it is stopped.
func (s *Supervisor) awaitOrders() {
	listening, told := false, ""
	for !s.over() {
		orders, err := readOrders(s.in)
		if err == nil {
			s.orders = orders
			s.report = supervise.Report{Start: orders.Start, Restarts: orders.Restarts}
			s.idle.Store(orders.Workload != supervise.Run)
			if !listening {
				listening = true
				s.listen()
			}
			if orders.Workload == supervise.Run {
				return
			}
		} else if told != err.Error() {
			told = err.Error()
			s.log.system("orders cannot be read: %v", err)
		}
		s.await(s.clock.Now().Add(ordersEvery), nil)
	}
}

func (s *Supervisor) listen() {
	server := &server{hub: s.hub, input: s.input, stops: s.stops, idle: s.idle.Load}
	if err := server.listen(s.orders.Start); err != nil {
		s.log.system("attach and stop do not work: %v", err)
	}
}

// runOnce runs the workload once and reports the beginning and the end. It returns the
// restart policy as of the end.
func (s *Supervisor) runOnce(n int) string {
	s.report.StartTime, s.report.FinishTime, s.report.NextStartTime = s.clock.Now().UTC(), time.Time{}, time.Time{}
	s.report.ExitCode, s.report.Signal = nil, 0
	if n > 1 {
		s.report.Restarts++
	}
	s.log.system("run %d", n)
	result := s.execute()
	if orders, err := readOrders(s.in); err == nil {
		s.orders.RestartPolicy, s.orders.Stdin, s.orders.Env = orders.RestartPolicy, orders.Stdin, orders.Env
	}
	s.report.FinishTime = s.clock.Now().UTC()
	if s.report.Signal = result.Signal; result.Signal == 0 {
		s.report.ExitCode = &result.ExitCode
		s.log.system(supervise.ExitText+"%d", result.ExitCode)
	} else {
		s.log.system(supervise.SignalText+"%d", result.Signal)
	}
	s.log.flush(flushPatience)
	s.changed()
	return s.orders.RestartPolicy
}

// execute starts the workload and waits until it has ended.
func (s *Supervisor) execute() outcome {
	// Write the report before the command can fill the folder: later reports take no more
	// room.
	s.changed()
	r, err := s.start(s.orders.Stdin)
	if err != nil {
		s.log.system("the command cannot be started: %v", err)
		return outcome{ExitCode: startCode(err)}
	}
	for {
		if status, ended := s.await(time.Time{}, r); ended {
			r.close(s.input)
			return outcomeOf(status)
		}
	}
}

// rest pauses before the next run.
func (s *Supervisor) rest() {
	s.pause = nextPause(s.pause, s.report.FinishTime.Sub(s.report.StartTime))
	s.report.NextStartTime = s.report.FinishTime.Add(s.pause)
	s.changed()
	for !s.over() && s.clock.Now().Before(s.report.NextStartTime) {
		s.await(s.report.NextStartTime, nil)
	}
	s.report.NextStartTime = time.Time{}
}

// finish reports that the workload is not started again, except when the supervisor is
// about to end itself: then the machine is being stopped, which ends nothing for good.
func (s *Supervisor) finish() {
	if s.ending && !s.stopped {
		s.changed()
		s.hub.finish(outcome{Error: "the machine is being stopped"})
		return
	}
	s.report.NextStartTime = time.Time{}
	s.report.Final = true
	s.changed()
	last := outcome{Signal: s.report.Signal}
	if s.report.ExitCode != nil {
		last.ExitCode = *s.report.ExitCode
	}
	if s.report.StartTime.IsZero() {
		last.Error = "the workload was stopped before it started"
	}
	s.input.finish()
	s.hub.finish(last)
	s.answerStops()
}
