# What the scripts that try something where systemd is process 1 have in common;
# they source it, in the guest and before it.

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

# traces lists what is there of berth beside mounts, tables and what it stores.
traces() {
	pgrep -a -f '^(/usr/bin/)?berth'
	ip -o link show | grep berth
	find /sys/fs/cgroup -type d -name '*berth*'
	# Mounts of the scripts' own: the clone's may have such a name too.
	systemctl list-units --all --plain --no-legend '*berth*' | cut -d ' ' -f 1 |
		grep -vxF -e var-lib-berth.mount -e "$(systemd-escape --path --suffix=mount "$PWD")"
	ls -d /run/berth /usr/bin/berth* /usr/lib/systemd/system/berth* 2>/dev/null
}

# archive makes a file of an image, in docker's form.
archive() { # its root directory, file, reference, entrypoint as JSON
	local work layer
	work=$(mktemp -d)
	tar -C "$1" --owner 0 --group 0 -cf "$work/layer.tar" .
	layer=$(sha256sum <"$work/layer.tar" | cut -d' ' -f1)
	printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/bin:/bin"],"Entrypoint":%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$4" "$layer" >"$work/config.json"
	printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$3" >"$work/manifest.json"
	tar -C "$work" -cf "$2" manifest.json config.json layer.tar
	rm -r "$work"
}

value() { systemctl show -P "$1" berthd.service; }
shims() { pgrep -f '^berth-shim'; } # by argv: it runs from a memfd
empty() { [ -z "$(ls -A "$@" 2>/dev/null)" ]; }
absent() { [ ! -e "$1" ]; }
