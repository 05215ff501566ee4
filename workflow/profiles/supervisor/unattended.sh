#!/usr/bin/env bash
# Runs Snakemake until the study is done, for supervisord (noisesteps.conf), which starts
# this script again whenever it ends with another status than 0 and 75.
#
#   unattended.sh [arguments of snakemake]
#
# 0: the study is done; 75: given up after RESTARTS restarts; 1: fell, start it again.
# Every start after the first, and the end, is told through Apprise, where it is there.
set -u
restarts=${RESTARTS:-10}
pause=${PAUSE:-60} # seconds before a restart
PATH=$PWD/.venv/bin:$PATH
state=.snakemake/unattended
log=results/snakemake.log # of the latest start
unwritable="$PWD/$state cannot be written, so restarts cannot be counted. Free some space
on its disk, or mend its permissions, and start it again."

tell() {
    echo "unattended: $1: $2"
    if command -v apprise >/dev/null; then
        apprise --title "noisesteps on $(hostname): $1" --body "$2" ||
            echo "unattended: the message could not be sent"
    fi
}

give_up() {
    rm -f "$state/starts"
    tell "given up" "$1"
    exit 75
}

stop() {
    stopped=yes
    rm -f "$state/starts"
    [ -n "$group" ] && kill -TERM -- "-$group" 2>/dev/null
}

# Ends what Snakemake left behind when it was killed; training writes a checkpoint.
end_group() {
    kill -TERM -- "-$group" 2>/dev/null
    for _ in $(seq 60); do
        kill -0 -- "-$group" 2>/dev/null || return
        sleep 1
    done
    kill -KILL -- "-$group" 2>/dev/null
}

group="" stopped=""
trap stop TERM INT

{ mkdir -p "$state" results && : >>"$state/lock"; } || give_up "$unwritable"

# Held by Snakemake too: where this script alone was killed, its Snakemake still works,
# and the next start waits here until that one ends.
exec 9>"$state/lock"
flock 9 &
wait $!
[ -n "$stopped" ] && exit 143

starts=$(($(cat "$state/starts" 2>/dev/null || echo 0) + 1))
# Uncounted, as on a full disk, the restarts would never end.
echo "$starts" >"$state/starts" || give_up "$unwritable"
if [ "$starts" -gt 1 ]; then
    if [ "$starts" -gt $((restarts + 1)) ]; then
        give_up "It fell $((starts - 1)) times; the last words were:
$(tail -n 8 "$log")"
    fi
    tell "fell" "Restart $((starts - 1)) of at most $restarts follows; the last words were:
$(tail -n 8 "$log")"
    sleep "$pause" &
    wait $!
fi
[ -n "$stopped" ] && exit 143

set -m # a process group of its own
snakemake "$@" >"$log" 2>&1 &
group=$!
set +m
wait "$group"
status=$?
while kill -0 "$group" 2>/dev/null; do # a signal ended the waiting, not Snakemake
    wait "$group"
    status=$?
done
end_group

if [ "$status" -eq 0 ]; then
    rm -f "$state/starts"
    tell "done" "The study is done; its report lies below $PWD/results."
elif [ -n "$stopped" ]; then
    echo "unattended: stopped"
    exit 143
else
    exit 1
fi
