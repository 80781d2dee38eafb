//! Does what a plan says, a step after another, and has the host remember it.

use api::{SiteKind, SiteMember, SiteMemory, Task, Vm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};

use super::found::{Host, plain};
use super::plan::{Deed, Plan, Step};
use super::{Key, schedules};
use crate::client::Client;
use crate::failure::{Failure, Result};

/// Applies plans to a host.
pub struct Applier<'a> {
    client: &'a Client,
    site: String,
    memory: SiteMemory,
    /// The version of what the host remembers; one that must not be there yet has 0.
    tag: String,
    /// How guests are asked to power themselves off.
    close: Value,
}

impl<'a> Applier<'a> {
    /// For a site on a host that has been looked at. `close` is how guests are asked to power themselves off.
    pub fn new(client: &'a Client, site: &str, host: &Host, close: Value) -> Self {
        let (memory, tag) = match &host.site {
            Some((site, tag)) => (site.memory.clone(), tag.clone()),
            None => (SiteMemory::default(), "\"0\"".to_owned()),
        };
        Self { client, site: site.to_owned(), memory, tag, close }
    }

    /// Begins: from now on what the plan changes is known as it was before.
    ///
    /// # Errors
    /// If somebody else applies the site, too.
    pub async fn begin(&mut self, plan: &Plan, host: &Host) -> Result<()> {
        self.memory.members = plan.members.values().cloned().collect();
        self.memory.before = plan.before(host);
        self.remember().await
    }

    /// Begins to undo. What was before stays known until [`Self::undone`].
    ///
    /// # Errors
    /// If somebody else applies the site, too.
    pub async fn begin_undo(&mut self, plan: &Plan) -> Result<()> {
        self.memory.members = plan.members.values().cloned().collect();
        self.remember().await
    }

    /// Has undone everything: there is nothing more to undo.
    ///
    /// # Errors
    /// If somebody else applies the site, too.
    pub async fn undone(&mut self) -> Result<()> {
        self.memory.before.clear();
        self.remember().await
    }

    async fn remember(&mut self) -> Result<()> {
        let (path, body) = (format!("/sites/{}", self.site), plain(&self.memory)?);
        let (_, tag) = self.client.tagged::<Value>(Method::PUT, &path, Some(&self.tag), Some(&body)).await?;
        self.tag = tag;
        Ok(())
    }

    /// Does one step, and has the host remember whose it is now.
    ///
    /// # Errors
    /// If it cannot be done.
    pub async fn step(&mut self, step: &Step) -> Result<()> {
        let identity = match step.deed {
            Deed::Create => self.create(&step.key, &step.after).await?,
            Deed::Change => {
                self.change(step).await?;
                step.identity.clone().unwrap_or_default()
            }
            Deed::Delete => {
                self.delete(step).await?;
                String::new()
            }
            Deed::Adopt => step.identity.clone().unwrap_or_default(),
        };
        let was = self.memory.members.clone();
        self.memory.members.retain(|member| (member.kind, &member.name) != (step.key.kind, &step.key.name));
        if step.member {
            let (kind, name) = (step.key.kind, step.key.name.clone());
            self.memory.members.push(SiteMember { kind, name, identity });
        }
        if self.memory.members != was {
            self.remember().await?;
        }
        // What is made after it does not work is there all the same, and the site's.
        if step.deed == Deed::Create
            && let Some(after) = step.after.get(schedules::FIELD)
        {
            schedules::apply(self.client, &step.key.name, &Value::Null, after).await?;
        }
        if step.deed == Deed::Create && step.after.get("state") == Some(&json!("running")) {
            self.verb(&step.key, "start", None).await?;
        }
        Ok(())
    }

    async fn task(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Task> {
        let task = self.client.change(method, path, query, body).await?;
        self.client.wait(task, None).await
    }

    async fn verb(&self, key: &Key, verb: &str, body: Option<&Value>) -> Result<Task> {
        self.task(Method::POST, &format!("/vms/{}/{verb}", key.name), &[], body).await
    }

    /// Makes a thing; gives what tells it from another one of its name.
    async fn create(&self, key: &Key, definition: &Value) -> Result<String> {
        let told = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let mut body = definition.clone();
        if let Some(fields) = body.as_object_mut() {
            fields.remove("state");
        }
        schedules::take(&mut body);
        Ok(match key.kind {
            SiteKind::Pool => {
                let _: Value = self.client.change(Method::POST, "/pools", &[], Some(&body)).await?;
                told(&body, "path")
            }
            SiteKind::Network => {
                told(&self.task(Method::POST, "/networks", &[], Some(&body)).await?.result, "id")
            }
            SiteKind::Volume => {
                body.as_object_mut().map(|fields| fields.remove("pool"));
                let path = format!("/pools/{}/volumes", told(definition, "pool"));
                told(&self.task(Method::POST, &path, &[], Some(&body)).await?.result, "id")
            }
            SiteKind::ShareGroup => {
                let _: Value = self.client.change(Method::POST, "/share-groups", &[], Some(&body)).await?;
                told(&body, "name")
            }
            SiteKind::Template => {
                let made: Value = self.client.change(Method::POST, "/templates", &[], Some(&body)).await?;
                told(&made, "created")
            }
            SiteKind::Vm => told(&self.task(Method::POST, "/vms", &[], Some(&body)).await?.result, "id"),
            SiteKind::User => self.create_user(key, body).await?,
        })
    }

    /// Makes a user with a password that nobody knows.
    async fn create_user(&self, key: &Key, mut body: Value) -> Result<String> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|error| Failure::internal(format!("random numbers: {error}")))?;
        body["password"] = URL_SAFE_NO_PAD.encode(secret).into();
        let disabled = body.as_object_mut().and_then(|fields| fields.remove("disabled"));
        let made: Value = self.client.change(Method::POST, "/users", &[], Some(&body)).await?;
        if disabled == Some(Value::Bool(true)) {
            let (path, body) = (format!("/users/{}", key.name), json!({ "disabled": true }));
            let _: Value = self.client.change(Method::PATCH, &path, &[], Some(&body)).await?;
        }
        Ok(made["id"].as_str().unwrap_or_default().to_owned())
    }

    async fn change(&self, step: &Step) -> Result<()> {
        let (name, body) = (&step.key.name, api::patch(&step.before, &step.after));
        match step.key.kind {
            SiteKind::Pool => {
                let _: Value =
                    self.client.change(Method::PATCH, &format!("/pools/{name}"), &[], Some(&body)).await?;
            }
            SiteKind::Network => {
                self.task(Method::PATCH, &format!("/networks/{name}"), &[], Some(&body)).await?;
            }
            SiteKind::Volume => self.change_volume(name, &body).await?,
            SiteKind::ShareGroup => {
                let path = format!("/share-groups/{name}");
                let _: Value = self.client.change(Method::PATCH, &path, &[], Some(&body)).await?;
            }
            SiteKind::Template => {
                let path = format!("/templates/{name}");
                let _: Value = self.client.change(Method::PUT, &path, &[], Some(&step.after)).await?;
            }
            SiteKind::Vm => self.change_guest(step, body).await?,
            SiteKind::User => {
                let path = format!("/users/{name}");
                // Labels are whole where they are said.
                let mut body = step.after.clone();
                body.as_object_mut().map(|fields| fields.remove("name"));
                let _: Value = self.client.change(Method::PATCH, &path, &[], Some(&body)).await?;
            }
        }
        Ok(())
    }

    async fn change_volume(&self, name: &str, patch: &Value) -> Result<()> {
        let (pool, volume) = name.split_once('/').unwrap_or_default();
        let path = |verb: &str| format!("/pools/{pool}/volumes/{volume}/{verb}");
        for (field, verb) in [("format", "convert"), ("size", "resize")] {
            if let Some(value) = patch.get(field) {
                let body = json!({ field: value });
                self.task(Method::POST, &path(verb), &[], Some(&body)).await?;
            }
        }
        Ok(())
    }

    async fn change_guest(&self, step: &Step, mut patch: Value) -> Result<()> {
        let key = &step.key;
        // What it does is not its definition.
        let fields = patch.as_object_mut();
        let state = fields.and_then(|fields| fields.remove("state")).filter(|state| !state.is_null());
        schedules::take(&mut patch);
        if state == Some(json!("stopped")) {
            self.verb(key, "shutdown", Some(&self.close)).await?;
        }
        let mut pending = false;
        if patch != json!({}) {
            // What the plan says shows after a start does so.
            let later = [("apply", "next-boot".to_owned())];
            let edited =
                self.task(Method::PATCH, &format!("/vms/{}", key.name), &later, Some(&patch)).await?;
            pending = edited.result["status"]["pending_restart"] == true;
        }
        if let Some(after) = step.after.get(schedules::FIELD) {
            schedules::apply(self.client, &key.name, &step.before[schedules::FIELD], after).await?;
        }
        let vm: Vm = self.client.get(&format!("/vms/{}", key.name), &[]).await?;
        let wanted = step.after.get("state").and_then(Value::as_str);
        match (wanted, vm.status.state) {
            (Some("running"), api::VmState::Paused) => drop(self.verb(key, "resume", None).await?),
            (Some("running"), state) if !state.is_alive() => {
                return self.verb(key, "start", None).await.map(drop);
            }
            _ => {}
        }
        if pending && step.restart {
            self.verb(key, "reboot", Some(&self.close)).await?;
        }
        Ok(())
    }

    async fn delete(&self, step: &Step) -> Result<()> {
        let name = &step.key.name;
        match step.key.kind {
            SiteKind::Vm => {
                // By its id: another one may have the name by now.
                let id = step.identity.as_ref().unwrap_or(name);
                let force = [("force", "true".to_owned())];
                self.task(Method::DELETE, &format!("/vms/{id}"), &force, None).await?;
            }
            SiteKind::Network => {
                drop(self.task(Method::DELETE, &format!("/networks/{name}"), &[], None).await?)
            }
            SiteKind::Volume => {
                let (pool, volume) = name.split_once('/').unwrap_or_default();
                let path = format!("/pools/{pool}/volumes/{volume}");
                self.task(Method::DELETE, &path, &[], None).await?;
            }
            SiteKind::Pool | SiteKind::ShareGroup | SiteKind::Template | SiteKind::User => {
                let path = format!("/{}s/{name}", step.key.kind.word());
                let _: Value = self.client.change(Method::DELETE, &path, &[], None).await?;
            }
        }
        Ok(())
    }
}
