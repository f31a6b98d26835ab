# shellcheck shell=bash
# For scripts that run something in a guest, which source it. They have $run, a
# directory where the guest's console.log is, and functions:
#
#   boot       boots a guest and waits for its end
#   started    whether what it is for had begun
#   status     prints what that has ended with, or fails

# guest boots until there is a status, and returns that; 125 if none came.
guest() {
	local attempt code result
	for attempt in 1 2 3; do
		code=0
		boot || code=$?
		if result=$(status); then return "$result"; fi
		# What had begun is not begun again: it may be what killed the guest.
		! started || break
		echo "guest: boot $attempt died before it began (emulator: $code)" >&2
	done
	echo "guest: it gave no exit status (emulator: $code); the end of its console:" >&2
	tail -n 25 "$run/console.log" >&2
	return 125
}
