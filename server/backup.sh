#!/bin/sh
# Dumps the database that PGHOST, PGDATABASE, PGUSER and PGPASSWORD name into BACKUP_FOLDER, and removes dumps that are
# older than BACKUP_DAYS days: `sh backup.sh` once, `sh backup.sh daily` every day. A dump has its name when it is whole.
#
# Restore one: docker compose stop prefect, then
#   docker compose exec -T database pg_restore -U prefect -d prefect --clean --if-exists --exit-on-error <DUMP
# and docker compose start prefect.
set -eu

back_up() {
    dump="$BACKUP_FOLDER/prefect-$(date -u +%Y%m%dT%H%M%SZ).dump"
    if pg_dump --format=custom --file="$dump.partial" && mv "$dump.partial" "$dump"; then
        echo "$dump"
    else
        rm -f "$dump.partial"
        echo "There is no dump of $(date -u)." >&2
        return 1
    fi
    find "$BACKUP_FOLDER" -maxdepth 1 -name 'prefect-*.dump*' -mtime "+$BACKUP_DAYS" -exec rm -f {} +
}

if [ "${1:-}" != daily ]; then
    back_up
    exit
fi
trap exit TERM INT
while :; do
    back_up || true # the next day's may succeed; this one is missed in the folder
    sleep 86400 &
    wait $!
done
