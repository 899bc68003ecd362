//! The `tidings` program: the library's command line and nothing else.

fn main() -> std::process::ExitCode {
    tidings::cli::main()
}
