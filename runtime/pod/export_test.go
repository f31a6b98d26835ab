package pod

// Deafen makes the Table miss every exit from now on, as one whose event
// source broke. It cannot be undone.
func (t *Table) Deafen() {
	t.shims.cancel()
	t.shims.wg.Wait()
}

// Repair does at once what a timer does now and then.
func (t *Table) Repair() { t.repair() }
