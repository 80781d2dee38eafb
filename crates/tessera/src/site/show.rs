//! Shows a plan as a difference, for a person.

use serde_json::Value;

use super::export;
use super::plan::{Deed, Plan, Step};
use crate::failure::Result;

/// The fields whose values are bytes.
pub const SIZES: [&str; 5] = ["memory", "size", "grow", "bytes", "bytes_burst"];

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// A value in one line.
fn short(field: &str, value: &Value) -> String {
    let last = field.rsplit(['.', ']']).next().unwrap_or(field);
    match value {
        Value::Null => "nothing".into(),
        Value::Number(number) if SIZES.contains(&last) => number
            .as_u64()
            .map_or_else(|| number.to_string(), |bytes| size(bytes).unwrap_or(bytes.to_string())),
        Value::String(text) if text.lines().count() > 1 => format!("text of {} lines", text.lines().count()),
        Value::String(text) if !text.is_empty() => text.clone(),
        other => other.to_string(),
    }
}

/// A number of bytes as people write it, if that is exactly it.
pub fn size(bytes: u64) -> Option<String> {
    let text = api::Size(bytes).to_string();
    (bytes > 0 && text.parse() == Ok(api::Size(bytes)) && !text.ends_with('B')).then_some(text)
}

/// What is done with a thing, as it is said before, and after.
pub fn words(step: &Step) -> (&'static str, &'static str) {
    match step.deed {
        Deed::Create => ("is made", "made"),
        Deed::Change if step.restart => ("is changed, and started anew", "changed, and started anew"),
        Deed::Change => ("is changed", "changed"),
        Deed::Delete => ("is deleted", "deleted"),
        Deed::Adopt => ("becomes the site's", "the site's now"),
    }
}

/// The whole plan.
///
/// # Errors
/// If something in it is not what it should be.
pub fn plan(plan: &Plan, colours: bool) -> Result<String> {
    let mut text = String::new();
    for step in &plan.steps {
        let (sign, colour) = match step.deed {
            Deed::Create => ('+', GREEN),
            Deed::Change => ('~', YELLOW),
            Deed::Delete => ('-', RED),
            Deed::Adopt => ('=', YELLOW),
        };
        let (colour, end) = if colours { (colour, PLAIN) } else { ("", "") };
        let note = step.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
        text += &format!("{colour}{sign} {} {}{end}{note}\n", step.key, words(step).0);
        for line in fields(step)?.lines() {
            text += &format!("    {line}\n");
        }
    }
    Ok(text + &summary(plan))
}

fn fields(step: &Step) -> Result<String> {
    if step.deed == Deed::Create {
        return export::described(step.key.kind, &step.after);
    }
    let changed = step.differences.iter().map(|difference| {
        let field = &difference.field;
        format!("{field}: {} -> {}\n", short(field, &difference.before), short(field, &difference.after))
    });
    Ok(changed.collect())
}

fn summary(plan: &Plan) -> String {
    if plan.steps.is_empty() {
        return "nothing to do: the host is as the site says\n".into();
    }
    let restarts = plan.steps.iter().filter(|step| step.restart).count();
    let parts = [
        (plan.count(Deed::Create), "to make"),
        (plan.count(Deed::Change), "to change"),
        (restarts, "of them to start anew"),
        (plan.count(Deed::Delete), "to delete"),
        (plan.count(Deed::Adopt), "to adopt"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    format!("{}\n", parts.collect::<Vec<_>>().join(", "))
}
