# A mirror of `cargo xtask` for those who have just.
test:
    cargo xtask test
lint:
    cargo xtask lint
docs:
    cargo xtask docs
demo:
    cargo run --release -- demo
