//! The images of this host, and who uses them.
//!
//! A guest boots its image's kernel at each start, so that an image stays, under its name, as long as guests or templates have it. What
//! is being made of an image and what is being done to it keep each other out by [`Hold`] and [`Taken`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{Disk, DiskSource, ImageName, ImageUsers, Problem, Template};
use serde_json::Value;
use storage::images::Store as Files;

use crate::pools::{self, Pools};
use crate::records;
use crate::store::{Store, StoreError};
use crate::supervisor::{storage_problem, store_problem};

/// Where templates are in the store.
pub const TEMPLATES: &str = "template/";
/// More users than these are counted, not named.
const NAMED: usize = 5;

/// The images.
#[derive(Debug)]
pub struct Images {
    files: Files,
    busy: Mutex<Busy>,
}

/// What goes on with images at the moment.
#[derive(Debug, Default)]
struct Busy {
    /// How many need each as it is.
    held: BTreeMap<ImageName, usize>,
    /// Those that are being removed, renamed or replaced.
    taken: BTreeSet<ImageName>,
}

/// Images that stay as they are until this is dropped.
#[derive(Debug)]
pub struct Hold {
    images: Arc<Images>,
    names: Vec<ImageName>,
}

/// An image that nobody begins to use until this is dropped.
#[derive(Debug)]
pub struct Taken {
    images: Arc<Images>,
    name: ImageName,
}

impl Deref for Images {
    type Target = Files;

    fn deref(&self) -> &Files {
        &self.files
    }
}

impl Images {
    /// Those in a folder.
    pub fn new(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { files: Files::new(folder), busy: Mutex::default() })
    }

    fn busy(&self) -> MutexGuard<'_, Busy> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has images stay as they are, until it is known that they are used, or that they are not.
    ///
    /// # Errors
    /// If one of them is being removed, renamed or replaced.
    pub fn hold(self: &Arc<Self>, names: Vec<ImageName>) -> Result<Hold, Problem> {
        let mut busy = self.busy();
        if let Some(taken) = names.iter().find(|name| busy.taken.contains(*name)) {
            let detail =
                format!("the image {taken} is being removed, renamed or replaced: try again when it is");
            return Err(Problem::conflict(detail));
        }
        for name in &names {
            *busy.held.entry(name.clone()).or_default() += 1;
        }
        Ok(Hold { images: Arc::clone(self), names })
    }

    /// Has nobody begin to use an image. Who uses it already is to be asked after this.
    ///
    /// # Errors
    /// If a guest is being made of it, it is being exported, or something else is being done to it.
    pub fn take(self: &Arc<Self>, name: &ImageName) -> Result<Taken, Problem> {
        let mut busy = self.busy();
        if busy.held.contains_key(name) {
            let detail =
                format!("the image {name} is being used at this moment: try again when that has ended");
            return Err(Problem::conflict(detail));
        }
        if !busy.taken.insert(name.clone()) {
            let detail = format!("the image {name} is being removed, renamed or replaced already");
            return Err(Problem::conflict(detail));
        }
        Ok(Taken { images: Arc::clone(self), name: name.clone() })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut busy = self.images.busy();
        for name in &self.names {
            if let Some(count) = busy.held.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    busy.held.remove(name);
                }
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.images.busy().taken.remove(&self.name);
    }
}

/// The images that disks are made of.
pub fn of_disks(disks: &[Disk]) -> Vec<ImageName> {
    let image = |disk: &Disk| match &disk.source {
        DiskSource::Image(name) => Some(name.clone()),
        _ => None,
    };
    disks.iter().filter_map(image).collect()
}

/// The images that the guests of a template have.
pub fn of_template(template: &Template) -> Vec<ImageName> {
    let disks = template.template.definition.get("disks").and_then(Value::as_array);
    let image = |disk: &Value| disk.get("image")?.as_str()?.parse().ok();
    disks.into_iter().flatten().filter_map(image).collect()
}

/// The guests and templates that an image must stay for.
///
/// # Errors
/// If the store cannot be read.
pub async fn keepers(store: &dyn Store, name: &ImageName) -> Result<ImageUsers, StoreError> {
    let (vms, _) = records::list(store).await?;
    let vms = vms.iter().map(|(record, _)| &record.vm.definition);
    let vms = vms.filter(|vm| of_disks(&vm.disks).contains(name)).map(|vm| vm.name.to_string()).collect();
    let (entries, _) = store.list(TEMPLATES).await?;
    let templates = entries.iter().map(|entry| serde_json::from_slice::<Template>(&entry.value));
    let templates = templates.collect::<Result<Vec<_>, _>>()?;
    let templates = templates.iter().filter(|template| of_template(template).contains(name));
    let templates = templates.map(|template| template.template.name.to_string()).collect();
    Ok(ImageUsers { vms, templates, volumes: Vec::new() })
}

/// Whether nobody needs an image as it is.
///
/// # Errors
/// If somebody does; the problem names them.
pub async fn check_unused(store: &dyn Store, name: &ImageName, what: &str) -> Result<(), Problem> {
    let users = keepers(store, name).await.map_err(store_problem)?.keepers();
    if users.is_empty() {
        return Ok(());
    }
    let mut named = users[..users.len().min(NAMED)].join(", ");
    if users.len() > NAMED {
        named += &format!(" and {} more", users.len() - NAMED);
    }
    Err(Problem::conflict(format!("the image {name} is used by {named}: it {what} as long as they do")))
}

/// The volumes that are based on an image, but for guests' own disks: each as `POOL/NAME`.
///
/// # Errors
/// If the image cannot be read. A pool that cannot be read is passed over.
pub fn volumes(pools: &Pools, images: &Images, name: &ImageName) -> Result<Vec<String>, Problem> {
    let image = images.get(name).map_err(storage_problem)?;
    let mut volumes = Vec::new();
    for (pool, opened) in pools.opened() {
        let based = opened.based_on_image(&image).unwrap_or_default();
        let others = based.iter().filter(|volume| pools::owner(volume).is_none());
        volumes.extend(others.map(|volume| format!("{pool}/{volume}")));
    }
    Ok(volumes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ImageName {
        text.parse().unwrap()
    }

    #[test]
    fn who_makes_something_of_an_image_and_who_removes_it_keep_each_other_out() {
        let images = Images::new("/nowhere".into());
        let one = images.hold(vec![name("a"), name("b"), name("a")]).unwrap();
        let two = images.hold(vec![name("a")]).unwrap();
        assert!(images.take(&name("a")).is_err());
        drop(one);
        assert!(images.take(&name("a")).is_err());
        drop(two);
        let taken = images.take(&name("a")).unwrap();
        assert!(images.take(&name("a")).is_err());
        assert!(images.hold(vec![name("b"), name("a")]).is_err());
        images.take(&name("b")).expect("nothing is held by what was refused");
        drop(taken);
        images.hold(vec![name("a")]).unwrap();
    }
}
