//! Finds literal arguments and options that a primitive does not accept.

use std::collections::BTreeSet;
use std::path::Path;

use rhai::{Expr, FnCallExpr, Position, Token};

use super::Checker;
use super::passed::Taken;
use crate::change::is_document;
use crate::failure::Failure;
use crate::script::options::{OptionSet, Required, one_of, with_article};
use crate::script::program::Program;
use crate::script::vocabulary::Parameter;
use crate::script::{json_of, manual};
use crate::text::nearest;

/// How the path of a file of the plan begins.
const PLAN_FILES: &str = "files/";

/// What is wrong with the arguments of a call with a known number of arguments.
pub(super) fn problems(
    checker: &Checker,
    program: &Program,
    namespace: &str,
    call: &FnCallExpr,
    may_fail: bool,
) -> Vec<Failure> {
    let mut reader = Reader { checker, program, namespace, call, may_fail, problems: Vec::new() };
    reader.types();
    for (at, argument) in call.args.iter().enumerate() {
        if let Some(options) = checker.vocabulary.options(namespace, &call.name, at)
            && reader.may_be_options(at)
        {
            reader.options(&options, argument);
            reader.required(&options, argument);
        }
    }
    reader.problems
}

/// What is wrong with the arguments of a call of a script's own function, or of one of a module.
pub(super) fn passed_on(
    program: &Program,
    function: &str,
    call: &FnCallExpr,
    taken: &[Taken],
) -> Vec<Failure> {
    let mut problems = Vec::new();
    for (at, (argument, taken)) in call.args.iter().zip(taken).enumerate() {
        if let Some(kind) = kind_of(argument)
            && kind != "()"
            && !taken.types.is_empty()
            && !taken.types.contains(kind)
        {
            let types: Vec<&str> = taken.types.iter().map(String::as_str).collect();
            let message = format!(
                "`{function}`: expected {} as argument {} (`{}`), found {}",
                one_of(&types),
                at + 1,
                taken.name,
                with_article(kind)
            );
            problems.push(program.problem(argument.start_position(), message));
        } else if let Expr::Map(map, position) = argument {
            let given: BTreeSet<&str> = map.0.iter().map(|(key, _)| key.name.as_str()).collect();
            for key in taken.keys.iter().filter(|key| !given.contains(key.as_str())) {
                let message = format!("`{function}`: the map `{}` lacks the key `{key}`", taken.name);
                problems.push(program.problem(*position, message));
            }
        }
    }
    problems
}

/// How the functions of this name are called, and which options they need.
pub(super) fn signatures(checker: &Checker, namespace: &str, name: &str) -> Vec<String> {
    let functions = manual::functions(checker.engine);
    let named = functions.iter().filter(|known| known.namespace == namespace && known.name == name);
    let options = checker.vocabulary.options_of(namespace, name);
    let needed = options.iter().flat_map(OptionSet::required).flat_map(|group| group.hints);
    named.map(manual::Function::signature).chain(needed.map(|hint| (*hint).to_owned())).collect()
}

pub(super) fn suggestion(name: &str, known: Vec<&str>) -> Option<String> {
    nearest(name, known).map(|near| format!("did you mean `{near}`?"))
}

struct Reader<'check> {
    checker: &'check Checker<'check>,
    program: &'check Program,
    namespace: &'check str,
    call: &'check FnCallExpr,
    /// The script catches what fails here.
    may_fail: bool,
    problems: Vec<Failure>,
}

impl Reader<'_> {
    fn function(&self) -> String {
        format!("{}::{}", self.namespace, self.call.name)
    }

    /// Whether a function that these arguments fit takes a map there, and nothing else.
    fn may_be_options(&self, at: usize) -> bool {
        let call = self.call;
        let known = self.checker.vocabulary.signatures(self.namespace, &call.name, call.args.len());
        let fits = |(parameter, argument): (&Parameter, &Expr)| {
            kind_of(argument).is_none_or(|kind| parameter.takes(kind))
        };
        let mut fitting =
            known.iter().filter(|parameters| parameters.iter().zip(&call.args).all(fits)).peekable();
        let is_map = |parameters: &&[Parameter]| matches!(&*parameters[at].types, [kind] if kind == "map");
        fitting.peek().is_none() || fitting.any(is_map)
    }

    fn report(&mut self, position: Position, message: String, hints: impl IntoIterator<Item = String>) {
        let mut failure = self.program.problem(position, message);
        failure.hints.extend(hints);
        self.problems.push(failure);
    }

    /// The types of literal arguments, and the files of the plan that they name.
    fn types(&mut self) {
        let call = self.call;
        let signatures_known =
            self.checker.vocabulary.signatures(self.namespace, &call.name, call.args.len());
        let kinds: Vec<Option<&str>> = call.args.iter().map(kind_of).collect();
        // How many arguments fit, from the left.
        let fitting = |parameters: &&[Parameter]| {
            let fits =
                |(parameter, kind): (&Parameter, Option<&str>)| kind.is_none_or(|kind| parameter.takes(kind));
            parameters.iter().zip(kinds.iter().copied()).take_while(|pair| fits(*pair)).count()
        };
        let Some(most) = signatures_known.iter().map(fitting).max() else { return };
        let nearest: Vec<&&[Parameter]> =
            signatures_known.iter().filter(|parameters| fitting(parameters) == most).collect();
        if let (Some(argument), Some(Some(kind))) = (call.args.get(most), kinds.get(most)) {
            let wanted = nearest.iter().flat_map(|parameters| &parameters[most].types);
            let types: BTreeSet<&str> = wanted.map(String::as_str).collect();
            let message = format!(
                "`{}`: expected {} as argument {}, found {}",
                self.function(),
                one_of(&types.into_iter().collect::<Vec<_>>()),
                most + 1,
                with_article(kind)
            );
            let hints = signatures(self.checker, self.namespace, &call.name);
            return self.report(argument.start_position(), message, hints);
        }
        let parameters = nearest.first().map(|parameters| parameters.to_vec()).unwrap_or_default();
        for (at, (parameter, argument)) in parameters.iter().zip(&call.args).enumerate() {
            self.plan_file(parameter, argument);
            self.elements(parameter, argument, at);
        }
        self.value_of_a_line();
    }

    /// A literal array or map as the value of a key in a file whose values are texts.
    fn value_of_a_line(&mut self) {
        let call = self.call;
        let [Expr::StringConstant(path, _), key, value, options @ ..] = &*call.args else { return };
        // Without a key it is a map of options.
        let is_plain = kind_of(key) != Some("string")
            || kind_of(value).is_none_or(|kind| !matches!(kind, "array" | "map" | "()"));
        let may_say_so =
            options.iter().any(|options| literal_keys(options).is_none_or(|keys| keys.contains("format")));
        if self.function() != "config::set"
            || is_plain
            || may_say_so
            || is_document(Path::new(path.as_str()), None)
        {
            return;
        }
        let message = format!(
            "`config::set`: expected a string, a number, a bool or a secret as a value in `{path}`, found {}",
            with_article(kind_of(value).unwrap_or_default())
        );
        self.report(value.start_position(), message, ["only JSON and TOML have other values".to_owned()]);
    }

    /// The types of the elements of a literal array.
    fn elements(&mut self, parameter: &Parameter, argument: &Expr, at: usize) {
        let Expr::Array(elements, _) = argument else { return };
        let known = parameter.elements;
        let wrong = |element: &&Expr| kind_of(element).is_some_and(|kind| !known.contains(&kind));
        if known.is_empty() {
            return;
        }
        for element in elements.iter().filter(wrong) {
            let message = format!(
                "`{}`: expected {} in the array of argument {}, found {}",
                self.function(),
                one_of(known),
                at + 1,
                with_article(kind_of(element).unwrap_or_default())
            );
            self.report(element.start_position(), message, None);
        }
    }

    /// A file of the plan must exist, unless the script asks whether it does or catches the error.
    fn plan_file(&mut self, parameter: &Parameter, argument: &Expr) {
        let Expr::StringConstant(path, position) = argument else { return };
        let reads = !self.may_fail
            && matches!(parameter.name.as_str(), "path" | "from")
            && self.call.name != "exists";
        let is_asked_for = || self.program.text.contains(&format!("file::exists(\"{path}\")"));
        let source = self.checker.graph.source();
        if reads && path.starts_with(PLAN_FILES) && !source.has_plan_file(path) && !is_asked_for() {
            let message = format!("`{}`: `{path}` not found in the plan", self.function());
            let hint = format!("add it to `{}`", source.describe());
            self.report(*position, message, [hint]);
        }
    }

    /// The options in a literal map, also where it is added to another.
    fn options(&mut self, known: &OptionSet, argument: &Expr) {
        match argument {
            Expr::Map(map, _) => {
                for (key, value) in &map.0 {
                    if known.names().contains(&key.name.as_str()) {
                        self.option(known, &key.name, value);
                        continue;
                    }
                    let names = known.names();
                    let hint = suggestion(&key.name, names.clone())
                        .unwrap_or_else(|| format!("known options: `{}`", names.join("`, `")));
                    let message = format!("`{}` has no option `{}`", self.function(), key.name);
                    self.report(key.pos, message, [hint]);
                }
            }
            Expr::FnCall(sum, _) if sum.op_token == Some(Token::Plus) => {
                for part in &sum.args {
                    self.options(known, part);
                }
            }
            _ => {}
        }
    }

    /// The options that must be there, where all of the map is literal, unless the script catches the error.
    fn required(&mut self, known: &OptionSet, argument: &Expr) {
        let Some(given) = literal_keys(argument).filter(|_| !self.may_fail) else { return };
        let is_missing = |group: &&Required| !group.names.iter().any(|name| given.contains(name));
        for group in known.required().iter().filter(is_missing) {
            let needs = match group.names.as_slice() {
                [others @ .., last] if !others.is_empty() => {
                    format!("one of `{}` or `{last}`", others.join("`, `"))
                }
                names => format!("`{}`", names.concat()),
            };
            let hints = group.hints.iter().map(|hint| (*hint).to_owned());
            self.report(first_position(argument), format!("`{}` needs {needs}", self.function()), hints);
        }
    }

    fn option(&mut self, known: &OptionSet, name: &str, value: &Expr) {
        let Some(kind) = kind_of(value) else { return };
        let given = value.get_literal_value(None).and_then(|value| json_of(&value).ok());
        let Some(why) = known.refused(name, kind, given.as_ref()) else { return };
        let message = format!("`{}`: option `{name}`: {why}", self.function());
        let position = value.start_position();
        let hint = match value {
            Expr::IntegerConstant(..) if name.ends_with("mode") => mode_at(&self.program.text, position),
            Expr::StringConstant(text, _) if why.starts_with("expected an array") => {
                Some(format!("write `{name}: [{text:?}]`"))
            }
            _ => None,
        };
        self.report(position, message, hint);
    }
}

/// Where a sum begins, or anything else.
fn first_position(argument: &Expr) -> Position {
    match argument {
        Expr::FnCall(sum, _) if sum.op_token == Some(Token::Plus) && !sum.args.is_empty() => {
            first_position(&sum.args[0])
        }
        other => other.start_position(),
    }
}

/// The keys of a map, if all of them are literal.
fn literal_keys(argument: &Expr) -> Option<BTreeSet<&str>> {
    match argument {
        Expr::Map(map, _) => Some(map.0.iter().map(|(key, _)| key.name.as_str()).collect()),
        Expr::FnCall(sum, _) if sum.op_token == Some(Token::Plus) => {
            let parts: Option<Vec<BTreeSet<&str>>> = sum.args.iter().map(literal_keys).collect();
            Some(parts?.into_iter().flatten().collect())
        }
        _ => None,
    }
}

/// The type of a value as scripts name it, as far as it is known without running anything.
fn kind_of(expression: &Expr) -> Option<&'static str> {
    Some(match expression {
        Expr::StringConstant(..) | Expr::InterpolatedString(..) => "string",
        Expr::CharConstant(..) => "char",
        Expr::IntegerConstant(..) => "int",
        Expr::FloatConstant(..) => "float",
        Expr::BoolConstant(..) => "bool",
        Expr::Array(..) => "array",
        Expr::Map(..) => "map",
        Expr::Unit(..) => "()",
        Expr::DynamicConstant(value, _) if value.is_fnptr() => "closure",
        Expr::Stmt(_) if super::captured::closure_in(expression).is_some() => "closure",
        _ => return None,
    })
}

/// How to write a mode that is given as a number here.
fn mode_at(text: &str, position: Position) -> Option<String> {
    let line = text.lines().nth(position.line()?.checked_sub(1)?)?;
    let written: String = line
        .chars()
        .skip(position.position()?.checked_sub(1)?)
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    let digits = written.strip_prefix("0o").unwrap_or(&written);
    let is_octal =
        !digits.is_empty() && digits.len() <= 4 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    is_octal.then(|| format!("write `\"{digits:0>4}\"`"))
}
