//! Settings → the text of a settings file with every value and its origin, for `/config`: the place of the value, and the places
//! that it overrides.
//!
//! Reading the text again gives the same settings (a test checks that), except for the secrets, which the text
//! does not show.

use crate::{
    Config, Layer, Origin, Origins, expand,
    settings::{DisplayValue, Setting, effective_layers, list_settings},
    text::{HIDDEN, quote},
};

/// Every setting as YAML, each with its origin as a comment. Secrets read `(hidden)`.
pub fn render(config: &Config, origins: &Origins) -> String {
    let mut out = Writer::default();
    for setting in list_settings(config, origins) {
        let layers = effective_layers(origins, &setting.key);
        out.setting(&setting, &describe_layers(&layers).replace(char::is_control, "?"));
    }
    out.text
}

/// `kv:outrigger/settings/services/orders@12, over o.yaml:3 ("5s")`
pub(crate) fn describe_layers(layers: &[&Layer]) -> String {
    let Some((first, rest)) = layers.split_first() else { return Origin::Default.to_string() };
    let over = if rest.is_empty() { "" } else { ", over " };
    let rest: Vec<_> = rest.iter().map(|layer| describe_overridden(layer)).collect();
    format!("{}{over}{}", first.origin, rest.join(", "))
}

fn describe_overridden(Layer { origin, written }: &Layer) -> String {
    match written {
        Some(written) => format!("{origin} ({written})"),
        None => origin.to_string(),
    }
}

#[derive(Default)]
struct Writer {
    text: String,
    /// Open sections: the segments of the last key, without the last segment.
    open_sections: Vec<String>,
}

impl Writer {
    fn setting(&mut self, setting: &Setting, origin: &str) {
        let mut path: Vec<String> = setting.key.split('.').map(str::to_owned).collect();
        let name = path.pop().unwrap_or_default();
        let known = self.open_sections.iter().zip(&path).take_while(|(a, b)| a == b).count();
        let mut item = false;
        for depth in known..path.len() {
            let segment = &path[depth];
            match segment.split_once('[') {
                None => self.line(&path[..depth], &mut item, &format!("{segment}:")),
                // `upstreams[1]` continues the list that `upstreams[0]` began.
                Some((list, "0]")) => {
                    self.line(&path[..depth], &mut item, &format!("{list}:"));
                    item = true;
                }
                Some(_) => item = true,
            }
        }
        let value = match &setting.value {
            DisplayValue::Text(text) => format_scalar(text),
            DisplayValue::List(items) => {
                format!("[{}]", items.iter().map(|i| format_scalar(i)).collect::<Vec<_>>().join(", "))
            }
            DisplayValue::Map(entries) => {
                let entries =
                    entries.iter().map(|(key, value)| format!("{}: {}", quote(key), quote_value(value)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
            DisplayValue::Nested(flow) => flow.to_string(),
        };
        self.line(&path, &mut item, &format!("{name}: {value}  # {origin}"));
        self.open_sections = path;
    }

    /// One line inside these sections; the first line of a list item gets the dash.
    fn line(&mut self, sections: &[String], item: &mut bool, content: &str) {
        let lists = sections.iter().filter(|segment| segment.contains('[')).count();
        let indent = 2 * (sections.len() + lists);
        if std::mem::take(item) {
            self.text.push_str(&" ".repeat(indent.saturating_sub(2)));
            self.text.push_str("- ");
        } else {
            self.text.push_str(&" ".repeat(indent));
        }
        self.text.push_str(content);
        self.text.push('\n');
    }
}

/// Without quotes where YAML reads the text unchanged, else in quotes.
fn format_scalar(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '%');
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.len() <= 60
        && text.chars().all(word)
        && !text.ends_with(':')
        && !text.eq_ignore_ascii_case("null");
    if plain || text == HIDDEN { text.to_owned() } else { quote_value(text) }
}

fn quote_value(text: &str) -> String {
    quote(&expand::escape(text))
}
