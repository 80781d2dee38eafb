//! Landlock: no paths, no TCP (landlock(7)).

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetError, RulesetStatus, Scope,
};

use crate::Error;

/// The newest that we know to ask for. A kernel that knows less does what it can.
const NEWEST: ABI = ABI::V6;

/// Lets no path be opened any more, and no port. Gives what the kernel cannot do.
pub fn close() -> Result<Option<String>, Error> {
    let status =
        restrict().map_err(|error| Error::Call { what: "Landlock", error: std::io::Error::other(error) })?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => None,
        RulesetStatus::NotEnforced => Some("the kernel has no Landlock".into()),
    })
}

fn restrict() -> Result<RestrictionStatus, RulesetError> {
    // No rule is added, so nothing of what is handled is allowed.
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()
}
