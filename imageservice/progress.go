package imageservice

import "sync"

// progress is how far a flight is, and who is told: every install that waits for
// it, from when it came until it is gone.
type progress struct {
	mu        sync.Mutex
	done      int64                                         // guarded by mu
	status    string                                        // "" as long as nothing was told; guarded by mu
	listeners map[*listener]func(done int64, status string) // guarded by mu
}

// listener stands for one listening.
type listener struct{ _ byte }

// tell tells all who listen.
func (p *progress) tell(done int64, status string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.status = done, status
	for _, report := range p.listeners {
		report(done, status)
	}
}

// listen tells report what was told last and from now on is, until stop is
// called: afterwards it is not called any more.
func (p *progress) listen(report func(done int64, status string)) (stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status != "" {
		report(p.done, p.status)
	}
	l := &listener{}
	if p.listeners == nil {
		p.listeners = map[*listener]func(int64, string){}
	}
	p.listeners[l] = report
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.listeners, l)
	}
}

// ofFlight is src.report for a flight whose blob has size bytes: it may be
// another blob of the same layer, compressed in another way.
func (src source) ofFlight(size int64) func(done int64, status string) {
	if size == src.size || size <= 0 {
		return src.report
	}
	return func(done int64, status string) {
		src.report(int64(float64(done)/float64(size)*float64(src.size)), status)
	}
}
