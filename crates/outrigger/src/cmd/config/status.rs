//! `outrigger config status`: which sidecars have applied what, by their receipts.

use std::time::Duration;

use clap::Args;
use outrigger_config::{
    Environment, SettingsDocument, count, error_chain, escape_control, format_duration, is_document,
    parse_duration,
};
use outrigger_dynamic_config::{
    DocumentSpread, FoundReceipt, MARK, SidecarSpread, SpreadResult, SpreadState, receipts_prefix,
    removal_of, spread_of, spread_result,
};
use outrigger_registry::{Cursor, Error};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    super::report::{CommandError, print_line},
    document::parse_key,
    place::{DocumentPlace, PlaceFlags},
};

/// Least pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest wait of one question: the documents are read again after it.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Least time for the first look: a short --timeout is about the sidecars.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// The exit code where not every sidecar has answered.
const NOT_ANSWERED: u8 = 3;

/// Show which sidecars have applied which documents
#[derive(Debug, Args)]
#[command(
    long_about = "Show which sidecars have applied which documents, by the receipts that they write. A document concerns every \
                  sidecar with a receipt, one of an app (apps/APP/...) those of the service APP. A sidecar that a rollout \
                  leaves out counts as one that has applied it.\n\nExit code: 0 every sidecar has applied the present version; 1 one \
                  refuses it, or something failed; 3 one has not answered, with --wait when the time is over, or there are fewer \
                  sidecars than --at-least.\n\nA sidecar without a receipt is not seen: its token may not write one, or it has \
                  just started, and then it reads the documents before it is ready.",
    after_help = "Example:\n  outrigger config status\n  outrigger config status services/payments --wait --timeout 1m"
)]
pub(super) struct StatusArguments {
    /// One document: defaults, services/NAME, apps/APP/defaults or apps/APP/services/NAME. Default: all.
    key: Option<String>,
    /// Wait until every sidecar has applied it, or one refuses it.
    #[arg(long)]
    wait: bool,
    /// Longest wait; then the exit code is 3.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// So many sidecars must have a receipt that the document concerns.
    #[arg(long, value_name = "N", default_value_t = 1)]
    at_least: usize,
    /// JSON instead of a list.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceFlags,
}

/// One look.
#[derive(Debug)]
struct Look {
    spreads: Vec<DocumentSpread>,
    /// How many sidecars have a receipt that counts for `--at-least`.
    sidecars: usize,
    /// The key of `outrigger config init` is there.
    has_mark: bool,
}

pub(super) async fn run(arguments: &StatusArguments) -> Result<(), CommandError> {
    let place = arguments.place.open(&Environment::from_process())?;
    let name = arguments.key.as_deref().map(|key| parse_key(key, &place.prefix)).transpose()?;
    let start = Instant::now();
    let until = start + arguments.timeout;
    let mut cursor = Cursor::START;
    let mut known = None;
    let mut outage = None;
    loop {
        let next_look = Instant::now() + PAUSE;
        let left = until.saturating_duration_since(Instant::now());
        let looking = look(&place, name.as_deref(), cursor, left.min(LONGEST_WAIT));
        let looked = match (arguments.wait, &known) {
            (false, _) => Some(looking.await),
            (true, None) => timeout_at(until.max(start + FIRST_LOOK), looking).await.ok(),
            (true, Some(_)) => timeout_at(until, looking).await.ok(),
        };
        match looked {
            Some(Ok((look, next))) => {
                cursor = next;
                known = Some(look);
                outage = None;
            }
            // It may answer later.
            Some(Err(LookError::Registry(error))) if arguments.wait && error.is_outage() => {
                cursor = Cursor::START;
                outage = Some(place.outage(&error_chain(&error)));
            }
            Some(Err(LookError::Registry(error))) => return Err(place.failure(&error)),
            Some(Err(LookError::NoDocument)) => {
                let key = place.store.key_of(name.as_deref().unwrap_or_default());
                return Err(CommandError::running(format!("there is no document {key}")));
            }
            None => {}
        }
        let is_over = !arguments.wait || Instant::now() >= until;
        let after = format_duration(arguments.timeout);
        let result = known.as_ref().map(|look| result_of(look, arguments.at_least));
        match (&known, result) {
            (Some(look), Some(result))
                if is_over || (result != SpreadResult::Pending && outage.is_none()) =>
            {
                show(&place, look, arguments);
                return match outage {
                    Some(outage) => {
                        Err(CommandError::with_code(NOT_ANSWERED, format!("after {after}, {outage}")))
                    }
                    None => conclude(&place, look, result, arguments),
                };
            }
            (None, _) if is_over => {
                let outage = outage.unwrap_or_else(|| place.outage("no answer in time"));
                let hint = "see whether the agent runs, or wait longer by --timeout";
                return Err(CommandError::with_code(
                    NOT_ANSWERED,
                    format!("after {after}, {outage}; {hint}"),
                ));
            }
            _ => sleep_until(next_look.min(until)).await,
        }
    }
}

/// Why there is nothing to show.
enum LookError {
    /// The registry cannot be asked.
    Registry(Error),
    /// There is no document of the name, and there was none.
    NoDocument,
}

impl From<Error> for LookError {
    fn from(error: Error) -> Self {
        Self::Registry(error)
    }
}

/// What there is, and where the next look at the receipts goes on.
async fn look(
    place: &DocumentPlace,
    name: Option<&str>,
    cursor: Cursor,
    wait: Duration,
) -> Result<(Look, Cursor), LookError> {
    // The documents first: a receipt is about what was there before it.
    let documents = place.store.documents().await?;
    let (receipts, next) = place.store.receipts(cursor, wait).await?;
    let look = compare(place, name, documents, &receipts).await?;
    // A question about a prefix without keys does not wait.
    Ok((look, if receipts.is_empty() { Cursor::START } else { next }))
}

async fn compare(
    place: &DocumentPlace,
    name: Option<&str>,
    documents: Vec<SettingsDocument>,
    receipts: &[FoundReceipt],
) -> Result<Look, LookError> {
    let has_mark = documents.iter().any(|one| one.name == MARK);
    let documents: Vec<_> = documents
        .into_iter()
        .filter(|one| is_document(&one.name) && name.is_none_or(|name| name == one.name))
        .collect();
    let Some(name) = name else {
        return Ok(Look { spreads: spread_of(&documents, receipts), sidecars: receipts.len(), has_mark });
    };
    let spread = match spread_of(&documents, receipts).pop() {
        Some(spread) => spread,
        None => {
            let spread = removal_of(name, receipts);
            let is_known = spread.sidecars.iter().any(|sidecar| sidecar.state != SpreadState::Applied);
            if !is_known && place.store.earlier_versions(name).await?.is_empty() {
                return Err(LookError::NoDocument);
            }
            spread
        }
    };
    let sidecars = spread.sidecars.len();
    Ok(Look { spreads: vec![spread], sidecars, has_mark })
}

fn result_of(look: &Look, at_least: usize) -> SpreadResult {
    match spread_result(&look.spreads) {
        SpreadResult::Applied if look.sidecars < at_least => SpreadResult::Pending,
        result => result,
    }
}

fn conclude(
    place: &DocumentPlace,
    look: &Look,
    result: SpreadResult,
    arguments: &StatusArguments,
) -> Result<(), CommandError> {
    let not_answered = |why: String| Err(CommandError::with_code(NOT_ANSWERED, why));
    let after =
        if arguments.wait { format!(" after {}", format_duration(arguments.timeout)) } else { String::new() };
    match result {
        SpreadResult::Applied => Ok(()),
        SpreadResult::Refused => Err(CommandError::running("a sidecar refuses a document")),
        SpreadResult::Pending if look.sidecars < arguments.at_least => {
            let receipts = receipts_prefix(&place.prefix);
            not_answered(format!(
                "{} of at least {}{after} has a receipt below {receipts} that the document concerns: the others do not run, their \
                 token may not write one, or this token may not read it",
                count(look.sidecars, "sidecar"),
                arguments.at_least
            ))
        }
        SpreadResult::Pending => {
            let is_pending = |sidecar: &&SidecarSpread| {
                matches!(sidecar.state, SpreadState::Pending { .. } | SpreadState::Unknown(_))
            };
            let pending = look.spreads.iter().flat_map(|spread| &spread.sidecars).filter(is_pending).count();
            not_answered(format!("{}{after}: no answer about the present version", count(pending, "sidecar")))
        }
    }
}

fn show(place: &DocumentPlace, look: &Look, arguments: &StatusArguments) {
    if !look.has_mark {
        place.print_missing_mark();
    }
    if arguments.json {
        let all: Vec<_> = look.spreads.iter().map(|spread| to_json(place, spread)).collect();
        return print_line(json!({"sidecars": look.sidecars, "documents": all}));
    }
    if look.spreads.is_empty() {
        print_line(format!("there is no document below {}", place.store.key_of("")));
    }
    for spread in &look.spreads {
        print_line(headline(place, spread));
        for SidecarSpread { service, id, state } in &spread.sidecars {
            let line = format!("  {service}/{id}  {}", describe(state));
            // Ids and problems come from other programs.
            print_line(escape_control(&line));
            if let SpreadState::Refused { problems, .. } = state {
                problems.iter().for_each(|problem| print_line(format!("    {}", escape_control(problem))));
            }
        }
    }
}

/// `KEY@INDEX: 3 applied, 1 refused`.
fn headline(place: &DocumentPlace, spread: &DocumentSpread) -> String {
    let key = place.store.key_of(&spread.name);
    let place = match spread.index {
        Some(index) => format!("{key}@{index}"),
        None => format!("{key} (deleted)"),
    };
    let labels =
        ["applied", "not_selected", "refused", "pending", "unknown"].into_iter().filter_map(|label| {
            let count = spread.sidecars.iter().filter(|sidecar| sidecar.state.label() == label).count();
            (count > 0).then(|| format!("{count} {}", label.replace('_', " ")))
        });
    let labels: Vec<_> = labels.collect();
    let counts = if labels.is_empty() { "no sidecar has a receipt".to_owned() } else { labels.join(", ") };
    format!("{place}: {counts}")
}

fn describe(state: &SpreadState) -> String {
    match state {
        SpreadState::Applied => "applied".to_owned(),
        SpreadState::NotSelected { rollout } => format!("not selected (rollout {rollout})"),
        SpreadState::Refused { in_effect: Some(index), .. } => {
            format!("refused, version {index} is in effect")
        }
        SpreadState::Refused { in_effect: None, .. } => "refused, no version is in effect".to_owned(),
        SpreadState::Pending { seen: Some(index) } => format!("pending, it has seen version {index}"),
        SpreadState::Pending { seen: None } => "pending, it has not seen the document".to_owned(),
        SpreadState::Unknown(why) => format!("unknown: {why}"),
    }
}

fn to_json(place: &DocumentPlace, spread: &DocumentSpread) -> Value {
    let sidecar = |SidecarSpread { service, id, state }: &SidecarSpread| {
        let mut shown = json!({"service": service, "id": id, "state": state.label()});
        match state {
            SpreadState::Applied => {}
            SpreadState::NotSelected { rollout } => shown["rollout"] = json!(rollout),
            SpreadState::Refused { problems, in_effect } => {
                shown["problems"] = json!(problems);
                shown["in_effect"] = json!(in_effect);
            }
            SpreadState::Pending { seen } => shown["seen"] = json!(seen),
            SpreadState::Unknown(why) => shown["reason"] = json!(why),
        }
        shown
    };
    let sidecars: Vec<_> = spread.sidecars.iter().map(sidecar).collect();
    json!({"key": place.store.key_of(&spread.name), "index": spread.index, "sidecars": sidecars})
}
