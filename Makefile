# What one does with this repository. `make help` lists it.

.DELETE_ON_ERROR:
.PHONY: help build packages module bin test check soak fuzz miri memcheck demo clean

# The first target.
help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 16

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

test: build ## every test
	scripts/test

check: packages ## formatting and lints
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	scripts/module lint

soak: packages ## everything at random under load: switches, canaries, holds, reloads, kills (TIME=600 seconds, SEED=…)
	scripts/module stable
	cargo build --release -p shunt-tests
	TIME=$(TIME) SEED=$(SEED) target/release/shunt-soak

fuzz: ## libFuzzer on everything that reads what others wrote (TIME=600 seconds for each target)
	TIME=$(TIME) scripts/fuzz

miri: ## the types and the state machine in Rust's interpreter, which sees undefined behaviour
	scripts/miri

memcheck: ## NGINX with the module under valgrind, through all that it does, reloads and killed workers included
	scripts/memcheck

demo: bin ## a deploy under load, one that is refused, a rollback (KEEP=1 leaves it running)
	scripts/module stable
	cargo build --release -p shunt-tests
	target/release/shunt-demo $(if $(KEEP),--keep)

clean: ## remove what was built
	rm -rf build target
