//! Agents that work without any manifest. A manifest's agent or bottle of the same name replaces
//! the built-in one.

use std::collections::BTreeMap;

use super::bottle::no_workspace;
use super::{
    Agent, Bottle, Bytes, EgressChain, Location, Manifest, NameError, Provider, Resources,
    Workspace, WorkspaceMode,
};

/// Built-in agents: name (its bottle's too), provider, resources.
const AGENTS: &[(&str, Provider, Resources)] = &[
    (
        "demo",
        Provider::Demo,
        Resources { cpus: 1, memory: Bytes::mib(512), disk: Bytes::mib(1024) },
    ),
    ("claude", Provider::Claude, AGENT),
    ("codex", Provider::Codex, AGENT),
];
const AGENT: Resources =
    Resources { cpus: 2, memory: Bytes::mib(2048), disk: Bytes::mib(10 * 1024) };

impl Manifest {
    /// Only the built-in agents and bottles.
    #[must_use]
    pub fn built_in() -> Self {
        let mut manifest =
            Self { file: None, dir: None, agents: BTreeMap::new(), bottles: BTreeMap::new() };
        for (name, provider, resources) in AGENTS {
            // The names above are slugs (a test says so), so none is ever left out here.
            let Ok(name): Result<super::Slug, NameError> = name.parse() else { continue };
            let agent = Agent {
                at: Location::built_in(),
                bottle: name.clone(),
                provider: *provider,
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
                workspace: if *provider == Provider::Demo { no_workspace() } else { copy() },
                resources: *resources,
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
        assert_eq!((manifest.agents.len(), manifest.bottles.len()), (AGENTS.len(), AGENTS.len()));
    }
}
