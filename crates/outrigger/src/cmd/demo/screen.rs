//! The output of the demo: a table that is redrawn in place, or plain lines where stdout is no terminal. The
//! table is a pure function of its rows.

use std::{
    io::{self, Write},
    time::Duration,
};

use crossterm::{cursor, queue, style::Stylize, terminal};
use outrigger_config::count;

/// The state of one instance.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct InstanceRow {
    pub(super) instance: String,
    pub(super) state: String,
    pub(super) weight: u32,
    /// Its part of the answers of the last two seconds, 0–1.
    pub(super) share: f64,
    pub(super) p50: Option<Duration>,
    pub(super) p99: Option<Duration>,
    /// Requests that the instance answered.
    pub(super) requests: u64,
    /// Failed attempts on the instance; the sidecar retries on another where that is safe.
    pub(super) failures: u64,
}

/// The state of the demo.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TableFrame {
    pub(super) elapsed: Duration,
    pub(super) length: Duration,
    pub(super) rows: Vec<InstanceRow>,
    pub(super) requests: u64,
    pub(super) retries: u64,
    pub(super) failures: u64,
}

impl TableFrame {
    /// One line per row, with a heading and a total.
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{:9}  {:11}  {:>6}  {:>5}  {:>7}  {:>7}  {:>8}  {:>12}",
            "INSTANCE", "STATE", "WEIGHT", "SHARE", "P50", "P99", "REQUESTS", "FAILED TRIES"
        )];
        lines.extend(self.rows.iter().map(|row| {
            let InstanceRow { instance, state, weight, share, p50, p99, requests, failures } = row;
            let share = format!("{:.0} %", share * 100.0);
            let (p50, p99) = (format_milliseconds(*p50), format_milliseconds(*p99));
            format!(
                "{instance:9}  {state:11}  {weight:>6}  {share:>5}  {p50:>7}  {p99:>7}  {requests:>8}  {failures:>12}"
            )
        }));
        lines.push(format!(
            "{:4.1} s of {:.0} s: {}, {}, {} failed",
            self.elapsed.as_secs_f64(),
            self.length.as_secs_f64(),
            count(self.requests, "request"),
            count(self.retries, "retry"),
            self.failures
        ));
        lines
    }

    /// The frame as one plain line.
    fn line(&self) -> String {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| format!("{} {} {:.0} %", row.instance, row.state, row.share * 100.0))
            .collect();
        format!(
            "{:5.1} s  {}, {}, {} failed | {}",
            self.elapsed.as_secs_f64(),
            count(self.requests, "request"),
            count(self.retries, "retry"),
            self.failures,
            rows.join(", ")
        )
    }
}

fn format_milliseconds(value: Option<Duration>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{:.1} ms", value.as_secs_f64() * 1_000.0))
}

/// Pause between two plain lines.
const PLAIN_LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Draws to stdout. A closed stdout is no failure, because the exit code gives the result.
#[derive(Debug)]
pub(super) struct Screen {
    /// Lines of the last frame. `None`: plain lines instead of a table.
    table: Option<usize>,
    next_line: Duration,
}

impl Screen {
    pub(super) fn new(table: bool) -> Self {
        if table {
            let _ = queue!(io::stdout(), cursor::Hide);
        }
        Self { table: table.then_some(0), next_line: Duration::ZERO }
    }

    /// Prints a line that stays, above the table.
    pub(super) fn print_line(&mut self, line: &str) {
        let _ = self.try_print_line(line);
    }

    pub(super) fn draw(&mut self, frame: &TableFrame) {
        let _ = self.try_draw(frame);
    }

    fn try_print_line(&mut self, line: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if let Some(drawn) = &mut self.table {
            erase_lines(&mut out, std::mem::take(drawn))?;
        }
        writeln!(out, "{line}")?;
        out.flush()
    }

    fn try_draw(&mut self, frame: &TableFrame) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let Some(drawn) = self.table else {
            if frame.elapsed >= self.next_line {
                self.next_line = frame.elapsed + PLAIN_LINE_INTERVAL;
                writeln!(out, "{}", frame.line())?;
            }
            return out.flush();
        };
        let width = terminal::size().map_or(80, |(columns, _)| usize::from(columns));
        erase_lines(&mut out, drawn)?;
        let lines = frame.lines();
        for (n, line) in lines.iter().enumerate() {
            // A line that wraps would be erased only in part.
            let line: String = line.chars().take(width.saturating_sub(1)).collect();
            if n == 0 {
                writeln!(out, "{}", line.bold())?;
            } else {
                writeln!(out, "{line}")?;
            }
        }
        self.table = Some(lines.len());
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.table.is_some() {
            let _ = crossterm::execute!(io::stdout(), cursor::Show);
        }
    }
}

fn erase_lines(out: &mut impl Write, lines: usize) -> io::Result<()> {
    if let Ok(lines @ 1..) = u16::try_from(lines) {
        queue!(out, cursor::MoveToPreviousLine(lines), terminal::Clear(terminal::ClearType::FromCursorDown))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> TableFrame {
        let row = |instance: &str, state: &str, share, p50| InstanceRow {
            instance: instance.into(),
            state: state.into(),
            weight: 3,
            share,
            p50,
            p99: p50,
            requests: 1_234,
            failures: 5,
        };
        TableFrame {
            elapsed: Duration::from_millis(4_200),
            length: Duration::from_secs(12),
            rows: vec![
                row("orders-1", "passing", 0.5, Some(Duration::from_micros(3_260))),
                row("orders-2", "critical", 0.0, None),
            ],
            requests: 1_700,
            retries: 6,
            failures: 0,
        }
    }

    #[test]
    fn the_table_has_a_line_per_instance_in_columns() {
        let lines = frame().lines();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.chars().count() < 80), "fits a small terminal");
        let ends: Vec<_> = lines[..3].iter().map(|line| line.chars().count()).collect();
        assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{lines:#?}");
        for part in ["orders-1", "50 %", "3.3 ms", "1234"] {
            assert!(lines[1].contains(part), "{part} in {}", lines[1]);
        }
        assert!(lines[2].contains('–'), "{}", lines[2]);
        assert_eq!(lines[3], " 4.2 s of 12 s: 1700 requests, 6 retries, 0 failed");
    }

    #[test]
    fn a_plain_screen_draws_no_table() {
        let mut screen = Screen::new(false);
        screen.print_line("something happened");
        screen.draw(&frame());
        assert_eq!(screen.table, None);
    }

    #[test]
    fn a_plain_line_has_the_totals_and_every_instance() {
        let line = frame().line();
        assert_eq!(
            line,
            "  4.2 s  1700 requests, 6 retries, 0 failed | orders-1 passing 50 %, orders-2 critical 0 %"
        );
    }
}
