#!/bin/sh
# What is removed stops first, in an orderly way. An upgrade leaves the daemon
# running: when it is restarted is the operator's to say.
set -e
if [ "$1" = remove ]; then
  if [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now mapserver.service || true
  fi
  # One that was killed has left its tunnels of LISP+ALT. Those of one that runs
  # stay.
  /usr/bin/mapserver cleanup >/dev/null || true
fi
