//! What an engine knows: its functions by namespace, name and number of arguments.

use std::collections::{BTreeMap, HashMap};

use rhai::{FnNamespace, Identifier};

use super::options::OptionSet;

/// The options that a function knows, by its namespace and name; none for one without such an argument.
pub(super) type KnownOptions = fn(namespace: &str, name: &str) -> Option<OptionSet>;

/// The types that a parameter accepts where Rhai only knows that it is of any type, by namespace, name and parameter.
pub(super) type KnownTypes = fn(namespace: &str, name: &str, parameter: &str) -> &'static [&'static str];

/// Gives an engine the primitives that its scripts can call.
#[derive(Clone, Copy)]
pub struct Registration {
    /// Registers them.
    pub register: fn(&mut rhai::Engine),
    /// Which options their last maps accept.
    pub options: KnownOptions,
    /// What their parameters of any type accept.
    pub types: KnownTypes,
    /// What the elements of their arrays are; none for anything.
    pub elements: KnownTypes,
}

/// The names of parameters that are maps of options.
pub const OPTION_MAPS: [&str; 2] = ["options", "connection"];

/// Keywords of Rhai that are called like functions.
const KEYWORDS: [&str; 12] = [
    "print",
    "debug",
    "type_of",
    "eval",
    "Fn",
    "call",
    "curry",
    "is_def_var",
    "is_def_fn",
    "is_shared",
    "this",
    "throw",
];

/// The functions of one name.
#[derive(Clone, Copy, Debug, Default)]
struct Overloads {
    /// Bit N: there is one with N parameters.
    arities: u64,
    /// Bit N: parameter N is a map of options.
    options: u64,
    /// One of them returns a secret.
    gives_secret: bool,
}

/// The functions that scripts can call whatever they import.
pub(super) struct Vocabulary {
    everywhere: HashMap<Identifier, Overloads>,
    namespaces: BTreeMap<Identifier, BTreeMap<Identifier, Overloads>>,
    /// By namespace and name.
    signatures: HashMap<(Identifier, Identifier), Vec<Vec<Parameter>>>,
    registration: Registration,
}

/// A parameter of a function within a namespace.
#[derive(Clone, Debug)]
pub(super) struct Parameter {
    pub(super) name: String,
    /// The types that it takes, as scripts name them; none for any.
    pub(super) types: Vec<String>,
    /// What the elements of an array are; none for anything.
    pub(super) elements: &'static [&'static str],
}

impl Parameter {
    /// Whether it takes values of this type.
    pub(super) fn takes(&self, kind: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|known| known == kind)
    }
}

/// How a call fits what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// There is such a function.
    Known,
    /// The name is known, with other numbers of arguments.
    OtherArity,
    /// The name is unknown.
    Unknown,
}

impl Vocabulary {
    pub(super) fn of(engine: &rhai::Engine, registration: Registration) -> Self {
        let mut vocabulary = Self {
            everywhere: HashMap::with_capacity(256),
            namespaces: BTreeMap::new(),
            signatures: HashMap::new(),
            registration,
        };
        let listed = engine.collect_fn_metadata(
            None,
            |function| {
                let metadata = function.metadata;
                let mut overloads = Overloads { arities: bit(metadata.num_params), ..Overloads::default() };
                if !function.namespace.is_empty() {
                    for (at, parameter) in metadata.params_info.iter().enumerate() {
                        if parameter.split(':').next().is_some_and(|name| OPTION_MAPS.contains(&name.trim()))
                        {
                            overloads.options |= bit(at);
                        }
                    }
                    overloads.gives_secret = metadata.return_type.contains("Secret");
                }
                let global = metadata.namespace == FnNamespace::Global;
                let parameters = if function.namespace.is_empty() {
                    Vec::new()
                } else {
                    metadata
                        .params_info
                        .iter()
                        .map(|info| parameter(registration, &function.namespace, &metadata.name, info))
                        .collect()
                };
                let is_shorter = metadata.num_params > metadata.params_info.len();
                let parameters = (!is_shorter).then_some(parameters);
                Some((function.namespace, metadata.name.clone(), overloads, global, parameters))
            },
            true,
        );
        for (namespace, name, overloads, global, parameters) in listed {
            if namespace.is_empty() || global {
                vocabulary.everywhere.entry(name.clone()).or_default().add(overloads);
            }
            if !namespace.is_empty() {
                let key = (namespace.clone(), name.clone());
                vocabulary.signatures.entry(key).or_default().extend(parameters);
                vocabulary.namespaces.entry(namespace).or_default().entry(name).or_default().add(overloads);
            }
        }
        vocabulary
    }

    /// Whether functions of this namespace are registered.
    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(Identifier::as_str)
    }

    /// The names within a namespace; the empty one is what can be called without any.
    pub(super) fn names(&self, namespace: &str) -> Vec<&str> {
        if namespace.is_empty() {
            let names = self.everywhere.keys().map(Identifier::as_str);
            return names
                .filter(|name| name.starts_with(char::is_alphabetic) && !name.contains('$'))
                .collect();
        }
        self.namespaces.get(namespace).into_iter().flat_map(BTreeMap::keys).map(Identifier::as_str).collect()
    }

    /// How a call with so many arguments fits.
    pub(super) fn fit(&self, namespace: &str, name: &str, arguments: usize) -> Fit {
        if namespace.is_empty() && KEYWORDS.contains(&name) {
            return Fit::Known;
        }
        match self.overloads(namespace, name) {
            Some(known) if known.arities & bit(arguments) != 0 => Fit::Known,
            Some(_) => Fit::OtherArity,
            None => Fit::Unknown,
        }
    }

    /// The options that this argument knows, if it is a map of options.
    pub(super) fn options(&self, namespace: &str, name: &str, argument: usize) -> Option<OptionSet> {
        let known = self.overloads(namespace, name)?;
        if known.options & bit(argument) == 0 { None } else { self.options_of(namespace, name) }
    }

    /// The options that the functions of this name know.
    pub(super) fn options_of(&self, namespace: &str, name: &str) -> Option<OptionSet> {
        (self.registration.options)(namespace, name)
    }

    /// The parameters of the functions of this name that can be called with so many arguments. Maps and arrays at the
    /// end may be left out where a shorter call is registered.
    pub(super) fn signatures(&self, namespace: &str, name: &str, arguments: usize) -> Vec<&[Parameter]> {
        let known = self.signatures.get(&(namespace.into(), name.into())).into_iter().flatten();
        let can_leave_out = |parameter: &Parameter| matches!(parameter.types.as_slice(), [kind] if kind == "map" || kind == "array");
        known
            .filter_map(|parameters| {
                let left_out = parameters.get(arguments..)?;
                left_out.iter().all(can_leave_out).then_some(&parameters[..arguments])
            })
            .collect()
    }

    /// Whether a function returns a secret.
    pub(super) fn gives_secret(&self, namespace: &str, name: &str) -> bool {
        self.overloads(namespace, name).is_some_and(|known| known.gives_secret)
    }

    fn overloads(&self, namespace: &str, name: &str) -> Option<Overloads> {
        if namespace.is_empty() {
            self.everywhere.get(name).copied()
        } else {
            self.namespaces.get(namespace)?.get(name).copied()
        }
    }
}

impl Overloads {
    fn add(&mut self, other: Self) {
        self.arities |= other.arities;
        self.options |= other.options;
        self.gives_secret |= other.gives_secret;
    }
}

/// What is known of `name: type`.
fn parameter(registration: Registration, namespace: &str, function: &str, info: &str) -> Parameter {
    let (name, kind) = info.split_once(':').unwrap_or((info, "any"));
    let name = name.trim().trim_start_matches('_').to_owned();
    let types = match type_name(kind).as_str() {
        "any" | "" => {
            (registration.types)(namespace, function, &name).iter().map(|kind| (*kind).to_owned()).collect()
        }
        kind => vec![kind.to_owned()],
    };
    let elements = (registration.elements)(namespace, function, &name);
    Parameter { name, types, elements }
}

/// A type of Rust under the name that scripts have for it.
pub(super) fn type_name(kind: &str) -> String {
    let kind = kind.trim().trim_start_matches('&').trim_start_matches("mut ").trim();
    let kind = match kind.strip_prefix("Raised<").or_else(|| kind.strip_prefix("RhaiResultOf<")) {
        Some(inner) => inner.strip_suffix('>').unwrap_or(inner).trim(),
        None => kind,
    };
    let last = kind.rsplit("::").next().unwrap_or(kind);
    match last {
        "()" | "" => String::new(),
        "str" | "String" | "ImmutableString" => "string".to_owned(),
        "i64" | "INT" => "int".to_owned(),
        "f64" | "FLOAT" => "float".to_owned(),
        "Dynamic" => "any".to_owned(),
        "FnPtr" => "closure".to_owned(),
        other => other.to_lowercase(),
    }
}

fn bit(number: usize) -> u64 {
    1 << number.min(63)
}
