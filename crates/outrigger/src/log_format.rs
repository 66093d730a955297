//! The formats of log lines: text for a terminal or a file, JSON for a collector. One event is one line, whatever text of others it
//! holds: ids, tags, node names and check outputs come from the registry, and every client that may register there can write them.

use std::fmt::{self, Write};

use outrigger_config::breaks_line;
use tracing::Dispatch;
use tracing_subscriber::{
    Registry,
    field::RecordFields,
    filter::Targets,
    fmt::{
        FormatFields, MakeWriter,
        format::{DefaultFields, Writer},
    },
    layer::SubscriberExt,
    reload,
};

/// A subscriber that writes the events that pass `filter` to `writer`.
pub(crate) fn subscriber<W>(
    filter: reload::Layer<Targets, Registry>,
    json: bool,
    ansi: bool,
    writer: W,
) -> Dispatch
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let subscriber = tracing_subscriber::registry().with(filter);
    if json {
        // JSON escapes control characters; `LogWriter` escapes what JSON leaves.
        subscriber.with(lines.json().flatten_event(true)).into()
    } else {
        subscriber.with(lines.fmt_fields(EscapedFields).with_target(false).with_ansi(ansi)).into()
    }
}

/// The fields of an event as text, with the characters escaped that would end the line or command a terminal.
#[derive(Debug)]
struct EscapedFields;

impl<'w> FormatFields<'w> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        DefaultFields::new().format_fields(Writer::new(&mut EscapedText(&mut writer)), fields)
    }
}

struct EscapedText<'a, 'w>(&'a mut Writer<'w>);

impl Write for EscapedText<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.contains(breaks_line) {
            return self.0.write_str(text);
        }
        for one in text.chars() {
            if breaks_line(one) {
                write!(self.0, "{}", one.escape_default())?;
            } else {
                self.0.write_char(one)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use tracing::{info, info_span};

    use super::*;
    use crate::log_writer::LogWriter;

    /// What ends a line for some reader, and what a terminal obeys.
    const HOSTILE: &str = "a\n2026-01-01T00:00:00Z ERROR forged\r\n{\"level\":\"ERROR\"}\u{85}b\u{2028}c\u{2029}\u{b}\u{c}\u{1c}\u{1b}[2K\u{9b}0m\u{7f}";

    /// What one event with hostile text in each place becomes.
    fn log_hostile_event(json: bool, ansi: bool) -> String {
        let (mut reader, writer) = io::pipe().unwrap();
        let (filter, _handle) = reload::Layer::new(Targets::new().with_default(tracing::Level::INFO));
        let dispatch = subscriber(filter, json, ansi, LogWriter::new(writer.into()).unwrap());
        tracing::dispatcher::with_default(&dispatch, || {
            let error = io::Error::other(HOSTILE);
            let span = info_span!("span", node = %HOSTILE);
            let _in_span = span.enter();
            span.record("node", HOSTILE);
            info!(instance = %HOSTILE, output = HOSTILE, tags = ?[HOSTILE], %error, "message {HOSTILE}");
        });
        drop(dispatch);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn text_of_others_forges_no_line() {
        for json in [false, true] {
            let text = log_hostile_event(json, false);
            let line = text.strip_suffix('\n').unwrap();
            assert!(!line.contains(breaks_line), "{line:?}");
            assert!(line.contains("forged") && line.contains("instance"), "{line}");
            if json {
                let event: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!((&event["level"], &event["instance"]), (&"INFO".into(), &HOSTILE.into()));
            }
        }
    }

    #[test]
    fn a_terminal_gets_no_commands_of_others() {
        let text = log_hostile_event(false, true);
        let line = text.strip_suffix('\n').unwrap();
        assert!(line.contains("\u{1b}[32m"), "colours of its own: {line:?}");
        assert!(!line.contains("\u{1b}[2K") && !line.contains('\n'), "{line:?}");
    }
}
