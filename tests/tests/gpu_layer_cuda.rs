//! Layers on a card through the interface for engines: graphs, streams, workspaces, errors. Without the feature
//! `cuda`, a driver or a supported card everything is *ignored*, with the reason.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

#[cfg(not(feature = "cuda"))]
fn trials() -> Vec<Trial> {
    let ignored =
        || -> Result<Completion, Failed> { Ok(Completion::ignored_with("built without the feature `cuda`")) };
    vec![Trial::ignorable_test("cuda", ignored)]
}

#[cfg(feature = "cuda")]
mod card {
    use std::process::Command;
    use std::sync::{Mutex, OnceLock, PoisonError};

    use super::{Completion, Failed, Trial};
    use megamoe_tests::gpu::Unavailable;
    use megamoe_tests::layer::card::Card;
    use megamoe_tests::layer::card_cases::{CASES, Case, Outcome, break_context};

    /// Set in the process that breaks its context.
    const CHILD: &str = "MEGAMOE_BREAK_CONTEXT";

    /// One at a time: cases measure free memory, and fill it.
    static TURN: Mutex<()> = Mutex::new(());

    fn on_card(case: impl FnOnce(&Card) -> Outcome) -> Result<Completion, Failed> {
        static CARD: OnceLock<Result<Card, Unavailable>> = OnceLock::new();
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        match CARD.get_or_init(Card::open) {
            Err(Unavailable::Absent(reason)) => Ok(Completion::ignored_with(reason)),
            Err(Unavailable::Broken(reason)) => Err(reason.into()),
            Ok(card) => match case(card)? {
                Some(reason) => Ok(Completion::ignored_with(reason)),
                None => Ok(Completion::Completed),
            },
        }
    }

    pub fn trials() -> Vec<Trial> {
        let case = |(name, body): Case| Trial::ignorable_test(format!("cuda/{name}"), move || on_card(body));
        let mut all: Vec<_> = CASES.into_iter().map(case).collect();
        all.push(Trial::ignorable_test("cuda/error/broken-context", || on_card(|_| broken_context())));
        all
    }

    fn broken_context() -> Outcome {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let child = Command::new(program).env(CHILD, "1").output().map_err(|e| e.to_string())?;
        if child.status.success() {
            return Ok(None);
        }
        Err(format!("{}: {}", child.status, String::from_utf8_lossy(&child.stderr)))
    }

    /// What the child does, if this is it.
    pub fn child() -> Option<Result<(), String>> {
        std::env::var_os(CHILD)?;
        Some(match Card::open() {
            Ok(card) => break_context(&card),
            Err(Unavailable::Absent(reason) | Unavailable::Broken(reason)) => Err(reason),
        })
    }
}

#[cfg(feature = "cuda")]
use card::trials;

fn main() -> ExitCode {
    #[cfg(feature = "cuda")]
    if let Some(result) = card::child() {
        return match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, trials()).exit_code()
}
