//! `outrigger reload`: makes a sidecar read its settings again, and prints the result.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::Value;

use super::{
    admin_client::AdminClient,
    report::{CommandError, print_line},
};

/// Longest wait for the answer: above the sidecar's wait for the first answer for a new service.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Make a running sidecar read its settings file again
#[derive(Debug, Args)]
#[command(
    long_about = "Make a running sidecar read its settings file again, as SIGHUP does. No connection is dropped. A \
                  file with a problem changes nothing: every problem is printed, and the exit code is 2.",
    after_help = "Example:\n  outrigger reload\n  outrigger reload --admin localhost:7079"
)]
pub(super) struct ReloadArguments {
    #[command(flatten)]
    sidecar: AdminClient,
}

pub(super) async fn run(ReloadArguments { sidecar }: ReloadArguments) -> Result<(), CommandError> {
    let answer = sidecar.request(&Method::POST, "/reload", RESPONSE_TIMEOUT).await?;
    for line in report_lines(&sidecar.parse_json(&answer)?)? {
        print_line(line);
    }
    Ok(())
}

/// The lines to print for an answer.
fn report_lines(page: &Value) -> Result<Vec<String>, CommandError> {
    let list = |key: &str| -> Vec<String> {
        let items = page[key].as_array().into_iter().flatten();
        items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let warnings = list("warnings").into_iter().map(|warning| format!("warning: {warning}"));
    if page["applied"] != true {
        let mut problems = list("problems");
        return Err(if problems.is_empty() {
            CommandError::running(page["error"].as_str().unwrap_or("the reload was refused"))
        } else {
            problems.extend(warnings);
            CommandError::Settings(problems.join("\n"))
        });
    }
    let mut lines = list("changed");
    if lines.is_empty() {
        lines.push("nothing has changed".to_owned());
    }
    lines.extend(list("needs_restart").into_iter().map(|change| format!("needs a restart: {change}")));
    lines.extend(warnings);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_changed_is_printed_and_what_needs_a_restart_is_marked() {
        let page = json!({"applied": true, "changed": ["a: 1 → 2"], "needs_restart": ["workers: 1 → 2"]});
        assert_eq!(report_lines(&page).unwrap(), ["a: 1 → 2", "needs a restart: workers: 1 → 2"]);
        let page = json!({"applied": true, "changed": ["a: 1 → 2"], "warnings": ["b: has a new name"]});
        assert_eq!(report_lines(&page).unwrap(), ["a: 1 → 2", "warning: b: has a new name"]);
        let page = json!({"applied": true, "changed": [], "needs_restart": []});
        assert_eq!(report_lines(&page).unwrap(), ["nothing has changed"]);
    }

    #[test]
    fn every_problem_of_the_settings_is_printed_and_any_other_refusal_is_a_running_error() {
        let page = json!({"applied": false, "error": "wrong", "problems": ["x: is wrong", "y: is wrong"]});
        assert!(
            matches!(report_lines(&page), Err(CommandError::Settings(text)) if text == "x: is wrong\ny: is wrong")
        );
        let page = json!({"applied": false, "problems": ["x: is wrong"], "warnings": ["y: has a new name"]});
        assert!(
            matches!(report_lines(&page), Err(CommandError::Settings(text)) if text == "x: is wrong\nwarning: y: has a new name")
        );
        let page = json!({"applied": false, "error": "it is leaving"});
        assert!(matches!(report_lines(&page), Err(CommandError::Running(text)) if text == "it is leaving"));
    }
}
