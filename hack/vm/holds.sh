# What the scripts that try something where systemd is process 1 have in common;
# they source it in the guest.

# holds does something, or looks at something, and says so; else it is the end.
holds() { # words, command...
	local what=$1 start=$SECONDS
	shift
	if ! "$@" >/tmp/said 2>&1; then
		printf 'FAILED  %s: %s\n' "$what" "$*"
		cat /tmp/said
		explain
		exit 1
	fi
	printf 'ok      %s (%ds)\n' "$what" $((SECONDS - start))
}

# explain tells more of what failed; a script may have more to tell.
explain() { journalctl -u berthd -n 40 --no-pager 2>/dev/null || true; }

# soon waits for a command to succeed: ten minutes, since all takes its time here.
soon() { # command...
	local end=$((SECONDS + 600))
	while [ $SECONDS -lt $end ]; do
		if "$@"; then return 0; fi
		sleep 0.5
	done
	return 1
}

value() { systemctl show -P "$1" berthd.service; }
shims() { pgrep -f '^berth-shim'; } # by argv: it runs from a memfd
empty() { [ -z "$(ls -A "$@" 2>/dev/null)" ]; }
absent() { [ ! -e "$1" ]; }
