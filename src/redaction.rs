//! Takes secrets out of everything that is shown or logged.

/// Values under this length, in characters, are not searched for: they would hit innocent text.
pub const SHORTEST: usize = 8;

/// Knows the secrets of a run, in every form in which they are looked for.
#[derive(Default)]
pub struct Redactor {
    /// Longest first, so that a secret that contains another is replaced whole.
    forms: Vec<(String, String)>,
}

impl Redactor {
    /// Looks for this secret from now on: as it is, percent-encoded and as JSON writes it. Says whether it
    /// is long enough to be looked for.
    pub fn learn(&mut self, name: &str, value: &str) -> bool {
        if value.chars().count() < SHORTEST {
            return false;
        }
        let mark = format!("«secret:{name}»");
        let percent = crate::text::percent_encoded(value);
        let json = serde_json::Value::from(value).to_string();
        let forms = [value.to_owned(), percent, json.trim_matches('"').to_owned()];
        for form in forms {
            if !self.forms.iter().any(|(known, _)| *known == form) {
                self.forms.push((form, mark.clone()));
            }
        }
        self.forms.sort_by_key(|(form, _)| std::cmp::Reverse(form.len()));
        true
    }

    /// The text with every secret replaced by its name.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (form, mark) in &self.forms {
            if text.contains(form.as_str()) {
                text = text.replace(form.as_str(), mark);
            }
        }
        text
    }

    /// Whether the text holds a secret.
    pub fn holds_secret(&self, text: &str) -> bool {
        self.forms.iter().any(|(form, _)| text.contains(form.as_str()))
    }
}

impl Drop for Redactor {
    fn drop(&mut self) {
        for (form, _) in &mut self.forms {
            zeroize::Zeroize::zeroize(form);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_secret_is_replaced_by_its_name() {
        let mut redactor = Redactor::default();
        assert!(redactor.learn("db_password", "p@ss \"word\"/1"));
        let text = r#"plain p@ss "word"/1, url p%40ss%20%22word%22%2F1, json p@ss \"word\"/1"#;
        let mark = "«secret:db_password»";
        assert_eq!(redactor.redact(text), format!("plain {mark}, url {mark}, json {mark}"));
    }

    #[test]
    fn a_short_secret_is_not_looked_for() {
        assert!(!Redactor::default().learn("pin", "1234567"));
    }
}
