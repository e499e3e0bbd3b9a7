//! Not a test: prints how many tests this run skipped, and which. It has no harness, so its output is always shown.

fn main() {
    // Test runners ask for a list of tests; there is none.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let skipped = atra_test_support::take_skipped();
    println!("\nskipped tests: {}", skipped.len());
    for line in skipped {
        println!("  {line}");
    }
}
