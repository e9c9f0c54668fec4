//! The operator's answers to a plan's questions.

use std::collections::BTreeMap;
use std::path::Path;

use super::inputs::PlanError;
use super::types::LaunchPlan;
use super::warn::readable_secret;
use crate::manifest::{ManifestError, ManifestErrors};
use crate::values::{EnvName, Location};

impl LaunchPlan {
    /// The plan with the operator's answers to its questions as guest variables.
    ///
    /// # Errors
    /// An answer has a NUL character, which no variable can hold.
    pub fn with_answers(mut self, answers: BTreeMap<EnvName, String>) -> Result<Self, PlanError> {
        let at = Location::whole(Path::new("--env"));
        for (name, value) in answers {
            if value.contains('\0') {
                let message = format!("the value of {name} has a NUL character");
                let error = ManifestError::new(&at, "env", message, None);
                return Err(ManifestErrors::from(error).into());
            }
            self.warnings.extend(readable_secret(name.as_str(), &value));
            self.questions.retain(|question| question.name != name);
            self.given.env.insert(name.clone());
            self.env.insert(name, value);
        }
        Ok(self)
    }
}
