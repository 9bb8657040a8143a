//! Reads and evaluates Rhai scripts: where they come from, their settings, their limits, and the messages about
//! errors in them.

mod asked;
mod captured;
mod check;
mod engine;
mod error;
mod fingerprint;
mod graph;
mod host;
mod limits;
pub mod manual;
mod options;
mod plan;
mod program;
mod recovery;
mod requirements;
mod resolver;
mod secret;
mod secrets;
mod settings;
mod source;
mod token;
mod value;
mod vocabulary;

pub use asked::asked_secrets;
pub use check::{Checked, check};
pub use engine::{Engine, evaluate};
pub use error::Stop;
pub use fingerprint::{CodeFingerprint, code_fingerprint};
pub use graph::{Graph, MAIN};
pub use host::{
    Host, Passing, Raised, StepBody, StepCall, StepRunner, Trace, Unpredictable, act, act_without_recovery,
    look, raise, unpredictable,
};
pub use limits::{LARGEST_TEXT, STACK_SIZE};
pub use options::{OptionSet, option_names, options_of};
pub use plan::{Plan, PlannedStep};
pub use program::Program;
pub use requirements::{Requirements, requires_root};
/// The call of a primitive, which those who run its script hand on.
pub use rhai::{NativeCallContext, Position};
pub use secret::Secret;
pub use secrets::{Existing, LENGTH as GENERATED_LENGTH, SecretRequest, Secrets};
pub use settings::{FILE as SETTINGS, Settings};
pub(crate) use source::lexically_normal;
pub use source::{
    LIBRARY, PlanContent, PlanFile, Script, Source, built_in, built_in_names, built_in_scripts, read_text,
};
pub use value::{Seconds, json_of, value_of};
pub use vocabulary::{OPTION_MAPS, Registration};
