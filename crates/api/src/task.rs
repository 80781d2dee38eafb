//! Tasks: every change of a host is one.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{Id, Problem, Time};

/// A change that somebody asked for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Its id.
    pub id: Id,
    /// What it does: `vm.create`.
    pub action: String,
    /// What it changes: `/api/v1/vms/…`.
    pub target: String,
    /// The name of what it changes, for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Who asked for it.
    pub actor: String,
    /// Where it is.
    pub state: TaskState,
    /// How much of it is done, from 0 to 1; absent while nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub progress: Option<f64>,
    /// What it does at the moment, for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended: Option<Time>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// What it gave.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
}

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It waits for its turn.
    Queued,
    /// It is being done.
    Running,
    /// It has been done.
    Done,
    /// It could not be done; what it had begun has been undone.
    Failed,
    /// Somebody called it off; what it had begun has been undone.
    Cancelled,
}

impl TaskState {
    /// Whether it stays so.
    pub fn is_final(self) -> bool {
        matches!(self, TaskState::Done | TaskState::Failed | TaskState::Cancelled)
    }
}

/// What a task is to be, before there is one.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// What it does.
    pub action: &'static str,
    /// What it changes.
    pub target: String,
    /// The name of what it changes.
    pub name: String,
    /// Who asks for it.
    pub actor: String,
}
