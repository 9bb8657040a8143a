//! Shows the manual of the functions that scripts can call.

use console::style;

use crate::script::manual::Function;

/// The manual of these functions: functions of one name are shown together.
pub fn manual_text(functions: &[&Function]) -> String {
    let mut lines = Vec::new();
    let mut open = String::new();
    for function in functions {
        if function.namespace != open {
            open.clone_from(&function.namespace);
            lines.push(style(format!("── {open} ──")).bold().to_string());
            lines.push(String::new());
        }
        lines.push(style(function.signature()).cyan().to_string());
        lines.extend(prose(&function.doc));
        lines.push(String::new());
    }
    lines.join("\n")
}

/// A doc comment with its examples set off instead of fenced.
fn prose(doc: &str) -> Vec<String> {
    let mut within = false;
    let mut lines = Vec::new();
    for line in doc.lines() {
        if line.starts_with("```") {
            within = !within;
        } else if within {
            lines.push(style(format!("        {line}")).dim().to_string());
        } else {
            lines.push(if line.is_empty() { String::new() } else { format!("    {line}") });
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_shown_by_its_signature_its_text_and_its_example() {
        console::set_colors_enabled(false);
        let function = Function {
            namespace: "file".into(),
            name: "exists".into(),
            parameters: vec![("path".into(), "string".into())],
            optional: 0,
            returns: "bool".into(),
            doc: "Whether it is there.\n\n```rhai\nassert(file::exists(\"/\"));\n```".into(),
        };
        assert_eq!(
            manual_text(&[&function]),
            "── file ──\n\nfile::exists(path: string) -> bool\n    Whether it is there.\n\n        \
             assert(file::exists(\"/\"));\n"
        );
    }
}
