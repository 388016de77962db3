#!/bin/sh
# Makes the user that the units run as, and the directory for configuration and
# keys. Starts and enables nothing: a daemon without a configuration is of no
# use, and one that runs takes the site's traffic.
set -e
if [ "$1" = configure ]; then
  if ! getent passwd eidolon >/dev/null; then
    adduser --system --group --no-create-home --home /nonexistent --gecos Eidolon --quiet eidolon
  fi
  if ! [ -d /etc/eidolon ]; then
    install -d -o root -g eidolon -m 0750 /etc/eidolon
  fi
  if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
  fi
fi
