//! Pages of lists: filtered, sorted, cut.

use std::cmp::Ordering;

use api::{Invalid, List, ListQuery, Problem};
use serde::Serialize;
use serde_json::{Map, Value};

use super::error::{Error, Result};

/// How many items a page has if nothing is said.
const USUAL: u32 = 1000;
/// The most that a page may have.
const MOST: u32 = 10_000;

/// The page of `items` that `query` asks for.
///
/// # Errors
/// If the query makes no sense.
pub fn page<T: Serialize>(items: Vec<T>, query: &ListQuery, revision: u64) -> Result<List<Value>> {
    let limit = query.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(wrong("limit", limit.into(), "a page has 1 to 10000 items"));
    }
    let filter = Filter::of(query)?;
    let values = items.iter().map(serde_json::to_value).collect::<std::result::Result<Vec<_>, _>>();
    let mut values = values.map_err(|error| Problem::internal(error.to_string()))?;
    values.retain(|value| filter.fits(value));
    if let Some(sort) = &query.sort {
        let (field, down) = sort.strip_prefix('-').map_or((sort.as_str(), false), |field| (field, true));
        // The sort is stable: equal ones stay in the order of their age.
        values.sort_by(|a, b| {
            let order = compare(find(a, field), find(b, field));
            if down { order.reverse() } else { order }
        });
    }
    let start = match &query.cursor {
        Some(cursor) => {
            cursor.parse().map_err(|_| wrong("cursor", cursor.as_str().into(), "the `next` of a page"))?
        }
        None => 0usize,
    };
    let end = start.saturating_add(limit as usize);
    let next = (end < values.len()).then(|| end.to_string());
    let fields: Option<Vec<_>> =
        query.fields.as_deref().map(|fields| fields.split(',').map(str::trim).collect());
    let items = values.into_iter().skip(start).take(limit as usize);
    let items = items
        .map(|value| fields.as_ref().map_or_else(|| value.clone(), |fields| only(&value, fields)))
        .collect();
    Ok(List { items, next, revision })
}

fn wrong(field: &str, value: Value, detail: &str) -> Error {
    Error(Problem::invalid(vec![Invalid::new(format!("/{field}"), value, detail)]))
}

/// What a query's filter lets through: what all its terms fit.
pub struct Filter(Vec<Term>);

impl Filter {
    /// The filter of a query.
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn of(query: &ListQuery) -> Result<Self> {
        query.filter.as_deref().map_or(Ok(Vec::new()), terms).map(Self)
    }

    /// Whether all terms fit.
    pub fn fits(&self, item: &Value) -> bool {
        self.0.iter().all(|term| term.fits(item))
    }

    /// Whether all terms fit what is not JSON yet.
    pub fn fits_item(&self, item: &impl Serialize) -> bool {
        self.0.is_empty() || serde_json::to_value(item).is_ok_and(|value| self.fits(&value))
    }
}

/// One term of a filter: a field, and what it has to be.
struct Term {
    field: String,
    pattern: String,
    not: bool,
}

fn terms(filter: &str) -> Result<Vec<Term>> {
    let term = |text: &str| {
        let (field, pattern) = text.split_once('=').ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            wrong("filter", shown.into(), "terms such as state=running or name=web*, with commas between")
        })?;
        let (field, not) = field.strip_suffix('!').map_or((field, false), |field| (field, true));
        Ok(Term { field: field.trim().into(), pattern: pattern.trim().into(), not })
    };
    filter.split(',').filter(|text| !text.trim().is_empty()).map(term).collect()
}

impl Term {
    fn fits(&self, item: &Value) -> bool {
        let found = match find(item, &self.field) {
            None | Some(Value::Null) => matches(&self.pattern, ""),
            Some(Value::String(text)) => matches(&self.pattern, text),
            Some(other) => matches(&self.pattern, &other.to_string()),
        };
        found != self.not
    }
}

/// A field of an item: `name`, `status.state`, `label.KEY`; `state` is short for `status.state`.
fn find<'a>(item: &'a Value, field: &str) -> Option<&'a Value> {
    if let Some(label) = field.strip_prefix("label.") {
        return item.get("labels")?.get(label);
    }
    let direct = field.split('.').try_fold(item, |value, part| value.get(part));
    direct.or_else(|| item.get("status")?.get(field))
}

/// Whether `text` is what `pattern` says, where `*` is any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*').filter(|part| !part.is_empty()) {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            a.as_f64().unwrap_or(0.0).total_cmp(&b.as_f64().unwrap_or(0.0))
        }
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        _ => Ordering::Equal,
    }
}

/// `item` with these fields only.
fn only(item: &Value, fields: &[&str]) -> Value {
    let found = fields.iter().filter_map(|field| Some(((*field).to_owned(), find(item, field)?.clone())));
    Value::Object(found.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn items() -> Vec<Value> {
        let item = |name: &str, state: &str, memory: u64| json!({"name": name, "memory": memory, "status": {"state": state}, "labels": {"env": state}});
        vec![item("web-1", "running", 3), item("web-2", "stopped", 1), item("db-1", "running", 2)]
    }

    fn names(query: ListQuery) -> Vec<String> {
        let page = page(items(), &query, 1).ok().unwrap();
        page.items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    }

    fn filter(text: &str) -> Vec<String> {
        names(ListQuery { filter: Some(text.into()), ..ListQuery::default() })
    }

    #[test]
    fn a_filter_keeps_what_all_its_terms_fit() {
        assert_eq!(filter("state=running"), ["web-1", "db-1"]);
        assert_eq!(filter("name=web*,state=running"), ["web-1"]);
        assert_eq!(filter("name=*-1"), ["web-1", "db-1"]);
        assert_eq!(filter("name=*b*1"), ["web-1", "db-1"]);
        assert_eq!(filter("state!=running"), ["web-2"]);
        assert_eq!(filter("label.env=stopped"), ["web-2"]);
        assert_eq!(filter("memory=2"), ["db-1"]);
        assert!(page(items(), &ListQuery { filter: Some("x".into()), ..ListQuery::default() }, 1).is_err());
    }

    #[test]
    fn a_list_is_sorted_and_cut_into_pages() {
        let query = |sort: &str, cursor: Option<&str>| ListQuery {
            sort: Some(sort.into()),
            limit: Some(2),
            cursor: cursor.map(Into::into),
            ..ListQuery::default()
        };
        assert_eq!(names(query("memory", None)), ["web-2", "db-1"]);
        assert_eq!(names(query("-memory", None)), ["web-1", "db-1"]);
        let first = page(items(), &query("memory", None), 1).ok().unwrap();
        assert_eq!(names(query("memory", first.next.as_deref())), ["web-1"]);
        assert!(page(items(), &query("memory", Some("x")), 1).is_err());
    }

    #[test]
    fn only_the_fields_asked_for_are_sent() {
        let query = ListQuery { fields: Some("name,status.state".into()), ..ListQuery::default() };
        let page = page(items(), &query, 1).ok().unwrap();
        assert_eq!(page.items[0], json!({"name": "web-1", "status.state": "running"}));
    }
}
