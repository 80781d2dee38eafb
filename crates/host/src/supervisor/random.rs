//! How a guest that goes on from what is kept of its memory has random numbers that it has not had before.
//!
//! Linux seeds them anew when it is told another generation id ("Virtual Machine Generation ID", Microsoft, 2012), if it has the driver. One that has none is
//! told something that nobody else knows through its agent.

use std::sync::Arc;

use api::{Id, Problem};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Shared;
use super::identity::{UNWATCHED, script};

const RENEW: &str = concat!(
    include_str!("inside.sh"),
    include_str!("random.sh"),
    "own_random_numbers \"$1\"\nexit $status\n"
);

/// What nobody else knows, in letters.
///
/// # Errors
/// If this machine has no random numbers.
pub(super) fn secret() -> Result<String, Problem> {
    let mut secret = [0; 48];
    getrandom::fill(&mut secret).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(STANDARD.encode(secret))
}

/// Has a guest that goes on seed its random numbers anew. Nobody waits for it.
pub(super) fn renew(shared: &Arc<Shared>, id: Id) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let told = async { script(&shared, id, RENEW, vec![secret()?], UNWATCHED).await };
        if let Err(problem) = told.await {
            tracing::info!(
                "the random numbers of guest {id} are seeded anew when it does that itself: {problem}"
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;

    /// Does with the script's functions what `words` say, and tells its status and what it complains of.
    fn does(words: &str) -> (Option<i32>, String) {
        let script = concat!(include_str!("inside.sh"), include_str!("random.sh"));
        let done = Command::new("sh").args(["-c", &format!("{script}{words}")]).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    }

    #[test]
    fn its_program_says_what_the_kernel_says() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("reseed");
        let on = |file: &str| {
            let place = program.display();
            let made = does(&format!("printf \"$reseed\" >{place} && chmod 700 {place}"));
            assert_eq!(made, (Some(0), String::new()));
            let ended = Command::new(&program).stdin(File::open(file).unwrap()).status().unwrap();
            assert!(!program.exists(), "it removes itself");
            ended.code()
        };
        // What is no source of random numbers knows no such order.
        assert_eq!(on("/dev/null"), Some(libc::ENOTTY));
        // Only the machine's administrator may have its kernel do that.
        assert!(matches!(on("/dev/urandom"), Some(0 | libc::EPERM)));
    }

    #[test]
    fn a_guest_in_which_nothing_can_do_it_says_so() {
        let cannot =
            ["kernel_does_so", "chmod", "perl", "python3"].map(|it| format!("{it}() {{ return 1; }}; "));
        let (status, complaint) =
            does(&format!("{} own_random_numbers secret; exit $status", cannot.concat()));
        assert!(
            status == Some(1) && complaint.contains("neither perl nor python3"),
            "{status:?} {complaint}"
        );
    }
}
