//! Agents that work without any manifest. A manifest's agent or bottle of the same name replaces
//! the built-in one.

use std::collections::BTreeMap;

use super::bottle::no_workspace;
use super::{
    Agent, Bottle, EgressChain, Location, Manifest, NameError, Provider, Workspace, WorkspaceMode,
};

impl Manifest {
    /// Only the built-in agents and bottles.
    #[must_use]
    pub fn built_in() -> Self {
        let mut manifest =
            Self { file: None, dir: None, agents: BTreeMap::new(), bottles: BTreeMap::new() };
        for (provider, built_in) in Provider::all().filter_map(|p| Some((p, p.built_in?))) {
            // Every agent's name is a slug (a test says so), so none is left out here.
            let Ok(name): Result<super::Slug, NameError> = provider.name.parse() else { continue };
            let agent = Agent {
                at: Location::built_in(),
                bottle: name.clone(),
                provider,
                prompt: None,
                skills: Vec::new(),
                command: Vec::new(),
            };
            let bottle = Bottle {
                at: Location::built_in(),
                image: None,
                env: BTreeMap::new(),
                supervise: None,
                // Its path is the directory that the manifest is looked for from.
                workspace: if built_in.copies_workspace { copy() } else { no_workspace() },
                resources: built_in.resources,
                egress: Vec::new(),
                git: Vec::new(),
                bundle_egress: EgressChain::default(),
                provider: BTreeMap::new(),
            };
            manifest.agents.insert(name.clone(), agent);
            manifest.bottles.insert(name, bottle);
        }
        manifest
    }
}

fn copy() -> Workspace {
    Workspace { mode: WorkspaceMode::Copy, path: None, at: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_is_there() {
        let manifest = Manifest::built_in();
        let built_in = Provider::all().filter(|p| p.built_in.is_some()).count();
        assert_eq!((manifest.agents.len(), manifest.bottles.len()), (built_in, built_in));
    }
}
