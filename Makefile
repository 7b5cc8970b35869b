# What one does with this repository. `make help` lists it.

.DELETE_ON_ERROR:
.PHONY: help build packages module bin deb image install uninstall test test-docker check openapi schema soak soak-deploys fuzz miri memcheck bench compare demo clean

# Where `make install` puts things. What is not said of NGINX, it is asked for.
DESTDIR        =
PREFIX         = /usr/local
BINDIR         = $(PREFIX)/bin
DOCDIR         = $(PREFIX)/share/doc/shunt
SYSCONFDIR     = /etc
MANDIR         = $(PREFIX)/share/man
BASHDIR        = $(PREFIX)/share/bash-completion/completions
FISHDIR        = $(PREFIX)/share/fish/vendor_completions.d
# Debian's zsh looks for what packages bring in a folder of its own.
ZSHDIR         = $(PREFIX)/share/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
SYSTEMDUNITDIR = $(PREFIX)/lib/systemd/system
# These two systemd reads nowhere below /usr/local.
SYSUSERSDIR    = /usr/lib/sysusers.d
TMPFILESDIR    = /usr/lib/tmpfiles.d
NGINX          = nginx
NGINX_VERSION  =
NGINX_USER     = www-data
MODULESDIR     =
NGINXSHAREDIR  = /usr/share/nginx
NGINXCONFDIR   = $(SYSCONFDIR)/nginx

places = $(foreach v,DESTDIR BINDIR DOCDIR MANDIR BASHDIR FISHDIR ZSHDIR SYSCONFDIR SYSTEMDUNITDIR SYSUSERSDIR TMPFILESDIR NGINX \
	NGINX_VERSION NGINX_USER MODULESDIR NGINXSHAREDIR NGINXCONFDIR,$(v)='$($(v))')

# The first target.
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

build: module bin ## everything into build/, installing what is missing

packages:
	@scripts/packages

module: packages ## the NGINX module: for the machine's NGINX, Debian 13's, and upstream stable
	scripts/module debian
	scripts/module trixie
	scripts/module stable

bin: packages ## shunt and shuntd
	cargo build --release -p shunt-helper
	@install -D -m 755 -t build/bin target/release/shunt target/release/shuntd

deb: build ## Debian packages of it in build/deb: the helper, and the module for Debian 12 and 13
	scripts/deb

image: deb ## the image shunt/nginx, for what runs in containers (docs/docker.md)
	scripts/image

install: ## what was built, for the machine's NGINX and systemd (DESTDIR=, PREFIX=/usr/local, NGINX_VERSION=)
	@$(places) scripts/install install

uninstall: ## takes it away again; configuration and data stay
	@$(places) scripts/install uninstall

test: deb ## every test
	scripts/test

test-docker: deb ## the tests in containers: systemd, Debian's NGINX
	scripts/test-docker

check: packages ## formatting and lints
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy -p shunt-tests --test docker -- -D warnings
	scripts/module lint

openapi: ## docs/openapi/module.json and daemon.json, made of the types in api/ and helper/src/wire.rs
	cargo run -q -p xtask -- openapi docs/openapi/module.json
	cargo run -q -p shunt-helper --bin shuntd -- --openapi >docs/openapi/daemon.json

schema: ## docs/schema/app.json, made of the types in helper/src/config/
	cargo run -q -p shunt-helper --bin shunt -- check --schema >docs/schema/app.json

soak: packages ## everything at random under load: switches, canaries, holds, reloads, kills (TIME=600 seconds, SEED=…)
	scripts/module stable
	cargo build --release -p shunt-tests
	TIME=$(TIME) SEED=$(SEED) target/release/shunt-soak

soak-deploys: packages ## deploys, rollbacks and faults at random under load (TIME=600 seconds, SEED=…)
	scripts/module stable
	cargo build --release -p shunt-helper -p shunt-tests
	@install -D -m 755 -t build/bin target/release/shunt target/release/shuntd
	TIME=$(TIME) SEED=$(SEED) target/release/shunt-soak-deploys

fuzz: ## libFuzzer on everything that reads what others wrote (TIME=600 seconds for each target)
	TIME=$(TIME) scripts/fuzz

miri: ## the types and the state machine in Rust's interpreter, which sees undefined behaviour
	scripts/miri

memcheck: ## NGINX with the module under valgrind, through all that it does, reloads and killed workers included
	scripts/memcheck

bench: build ## what Shunt costs, beside other ways to do the same, into bench/results (scripts/bench NAME: one table)
	scripts/bench

compare: build ## the usual deploy script beside shunt deploy, under load, in a container with systemd
	scripts/compare

demo: bin ## a deploy under load, one that is refused, a rollback (KEEP=1 leaves it running)
	scripts/module stable
	cargo build --release -p shunt-tests
	target/release/shunt-demo $(if $(KEEP),--keep)

clean: ## remove what was built
	rm -rf build target
