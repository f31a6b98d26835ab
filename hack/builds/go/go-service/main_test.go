package main

import "testing"

func TestGreeting(t *testing.T) {
	if greeting("x") != "hello, x" {
		t.Fail()
	}
}
