//! Panics of kkrun itself: failures like any other, reported where errors are reported and without secrets.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};

use crate::failure::{Failure, FailureKind};

thread_local! {
    /// Where in kkrun's own code the last one began.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Lets no panic write anything by itself: its text may hold what must not be shown.
pub fn keep_quiet() {
    set_hook(Box::new(|panic| {
        let place = panic.location().map(|place| format!("{}:{}", place.file(), place.line()));
        PLACE.with_borrow_mut(|kept| *kept = place);
    }));
}

/// What `body` returns, or the failure that stands for its panic.
pub fn caught<T>(body: impl FnOnce() -> T) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown reason");
        let place = PLACE.with_borrow_mut(Option::take).map(|place| format!(" ({place})"));
        Failure::new(format!("internal error: {text}{}", place.unwrap_or_default()))
            .kind(FailureKind::Panic)
            .hint("this is a bug in kkrun; what was done is recorded")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_failure() {
        assert_eq!(caught(|| 7).unwrap(), 7);
        let failure = caught(|| panic!("out of {}", "ideas")).unwrap_err();
        assert!(failure.message.starts_with("internal error: out of ideas"), "{}", failure.message);
    }
}
