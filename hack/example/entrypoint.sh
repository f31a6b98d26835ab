#!/bin/sh
# Makes a cluster in $PGDATA if there is none, and runs the server as postgres.
# POSTGRES_PASSWORD is the password of the user postgres.
set -eu
if [ "$(id -u)" = 0 ]; then
	mkdir -p "$PGDATA"
	chown postgres:postgres "$PGDATA" /run/postgresql
	exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	[ -n "${POSTGRES_PASSWORD:-}" ] || { echo "set POSTGRES_PASSWORD: it becomes the password of the user postgres" >&2; exit 1; }
	password=$(mktemp)
	echo "$POSTGRES_PASSWORD" >"$password"
	initdb --username postgres --pwfile "$password" --auth-host scram-sha-256 --auth-local trust
	rm "$password"
	echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
fi
unset POSTGRES_PASSWORD
exec "$@"
