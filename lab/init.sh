#!/bin/sh
# The first process in a container of the lab: runs the command of the node, and
# stays when that has ended, so that the node and its links do. With again, it is
# another process beside the first, which runs the command anew. What became of
# the command is in two files, for who runs the lab.
run=${LAB_RUN:-/run}
if [ "$1" = again ]; then
  shift
  exec >/proc/1/fd/1 2>&1
  stays=
else
  trap 'kill -TERM "$waited" 2>/dev/null; wait; exit 0' TERM
  stays=yes
fi
rm -f "$run/command.status"
"$@" &
waited=$!
echo "$waited" >"$run/command.pid"
wait "$waited"
echo $? >"$run/command.status"
[ "$stays" ] || exit 0
sleep infinity &
waited=$!
wait
