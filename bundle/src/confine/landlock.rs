//! Landlock: which files can be reached, which ports bound, who can be signalled.

use std::os::fd::AsFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::grants::{ConfineError, Grants, Network};

/// The newest ABI whose rights were reviewed for this program (ABI 6: signals and abstract
/// sockets).
const REVIEWED_ABI: ABI = ABI::V6;

/// Confines the calling thread. Returns the ABI in force, 0 if the kernel has no Landlock.
pub(super) fn restrict(grants: &Grants, network: Network) -> Result<u32, ConfineError> {
    let failed =
        |e: landlock::RulesetError| ConfineError::Kernel { step: "landlock", why: e.to_string() };
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(REVIEWED_ABI))
        .map_err(failed)?
        .scope(Scope::from_all(REVIEWED_ABI))
        .map_err(failed)?;
    rules = match network {
        Network::Outgoing => rules.handle_access(AccessNet::BindTcp).map_err(failed)?,
        Network::Nothing => {
            rules.handle_access(AccessNet::from_all(REVIEWED_ABI)).map_err(failed)?
        }
        Network::Inet | Network::Unrestricted => rules,
    };
    let mut rules = rules.create().map_err(failed)?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let kinds = [
        (&grants.ro, read),
        (&grants.rx, read | AccessFs::Execute),
        (&grants.rw, AccessFs::from_all(REVIEWED_ABI) & !BitFlags::from(AccessFs::Execute)),
    ];
    for (paths, access) in kinds {
        for path in paths {
            let missing = |why: String| ConfineError::Path { path: path.clone(), why };
            let fd = match PathFd::new(path) {
                Ok(fd) => fd,
                Err(_) if grants.skip_missing && !path.exists() => continue,
                Err(e) => {
                    return Err(missing(
                        std::error::Error::source(&e)
                            .map_or_else(|| e.to_string(), ToString::to_string),
                    ));
                }
            };
            let is_dir = path.metadata().map_err(|e| missing(e.to_string()))?.is_dir();
            let access = if is_dir { access } else { access & AccessFs::from_file(REVIEWED_ABI) };
            rules = rules.add_rule(PathBeneath::new(fd.as_fd(), access)).map_err(failed)?;
        }
    }
    let status = rules.restrict_self().map_err(failed)?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => 0,
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            (effective_abi as u32).min(REVIEWED_ABI as u32)
        }
        _ => 0,
    })
}
