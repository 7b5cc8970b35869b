#!/bin/bash
# The usual script: clone, install, migrate, link, restart, wait, ask. Only names and the application's
# language are other ones than in the articles that it is found in.
set -euo pipefail
APP_DIR=/srv/myapp
RELEASE=$1
RELEASE_DIR="$APP_DIR/releases/$RELEASE"
echo "==> Creating release directory: $RELEASE_DIR"
mkdir -p "$RELEASE_DIR"
echo "==> Pulling latest code"
git clone --quiet --depth 1 file:///srv/git/myapp "$RELEASE_DIR"
echo "==> Installing dependencies"
cd "$RELEASE_DIR"
./install
echo "==> Running database migrations"
./migrate
echo "==> Switching symlink atomically"
ln -sfn "$RELEASE_DIR" "$APP_DIR/current"
echo "==> Reloading application (socket remains open)"
systemctl reload-or-restart myapp.service
echo "==> Verifying health check"
sleep 2
curl -sf http://127.0.0.1:3000/health || { echo "Health check failed!"; exit 1; }
echo "==> Cleaning up old releases (keeping last 5)"
ls -dt "$APP_DIR/releases"/* | tail -n +6 | xargs rm -rf
echo "==> Deployment complete: $RELEASE"
