//! A function that differs, as a row of the plan, and the refusal if it cannot be replaced.

use dynamos_differ::verdict::{FunctionVerdict, Lifetime, Verdict};

use crate::plan::{FunctionPlan, Plan, Refusal};

/// What there is to say of a function that differs.
#[derive(Debug)]
pub struct FunctionRow<'a> {
    /// V1's name, if it is in V1.
    pub name: &'a str,
    /// What became of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// When it runs.
    pub lifetime: Lifetime,
    /// Whether it is in V1.
    pub in_v1: bool,
    /// Whether it can be called from replaced functions only ([`FunctionVerdict::inner`]).
    pub inner: bool,
}

impl<'a> FunctionRow<'a> {
    pub(super) fn of(function: &'a FunctionVerdict) -> Self {
        let reason = &function.reason;
        Self {
            name: function.old_name.as_deref().unwrap_or(&function.name),
            verdict: function.verdict,
            reason: match function.along {
                true => format!("{reason}; has no ftrace site: goes along with its callers"),
                false => reason.clone(),
            },
            lifetime: function.lifetime,
            in_v1: function.v1.is_some(),
            inner: function.inner,
        }
    }

    /// Whether a changed function may stay as it is. Code that ran at the start is gone; if nothing else changes, so
    /// is the change. Code that runs at the end of a module runs after the update has gone, when V1's functions are
    /// back: an update holds its targets.
    fn stays(&self, alone: bool) -> bool {
        match self.lifetime {
            Lifetime::Always => false,
            Lifetime::Start => alone || !self.in_v1,
            Lifetime::End => true,
        }
    }

    /// Adds it to the plan. `alone`: nothing else of the update is replaced.
    pub fn tell(self, object: &str, alone: bool, plan: &mut Plan) {
        if self.verdict == Verdict::Unchanged {
            return;
        }
        let refused = self.verdict == Verdict::Refused;
        let stays = refused && self.stays(alone);
        let verdict = if stays { "stays" } else { function_verdict(self.verdict) };
        if refused && self.lifetime == Lifetime::Start && !stays {
            let reason = format!(
                "{}; what V2 does there would have to be done to the running kernel",
                self.reason
            );
            plan.refusals.push(Refusal::of_state(self.name, &reason));
        } else if refused && !stays {
            let remedy = "change the fix so that it leaves this function as it is, or restart the machine with \
                          the new kernel";
            plan.refusals.push(Refusal::new(self.name, self.reason.clone(), remedy));
        }
        plan.functions.push(FunctionPlan {
            name: self.name.to_owned(),
            object: object.to_owned(),
            verdict: verdict.into(),
            reason: self.reason,
            matched_bytes: 0,
            adapted_by: None,
            works_on: None,
            inner: self.inner,
            reshaped: false,
        });
    }
}

/// The plan's word for a verdict.
pub fn function_verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unchanged => "unchanged",
        Verdict::Changed => "changed",
        Verdict::New => "new",
        Verdict::Removed => "removed",
        Verdict::Renamed => "renamed",
        Verdict::Refused => "refused",
    }
}
