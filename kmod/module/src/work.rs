//! What an operation does with an update that it has taken out of the registry.

use alloc::vec::Vec;
use core::time::Duration;

use dynamos_core::policy::{Program, Request};
use dynamos_core::{
    Budget, Layer as _, Leaving, Limits, OnTimeout, Options, Refusal, Scope, State, Switching,
    Update, UpdateId,
};

use crate::ffi::errno::Errno;
use crate::ffi::memory::TryVec;
use crate::ffi::{kernel, log, policy, wait};
use crate::layer::KernelLayer;
use crate::module::STATE;
use crate::names;
use crate::policies::Policies;
use crate::refused::Refused;
use crate::updates::LOOKS;

/// Why an update that writes handlers has no policies.
pub(crate) const CALLS_SHARE_HANDLERS: &str =
    "the update writes handlers into tables of operations: all calls share them";

/// Why one whose functions have other parameters has none.
pub(crate) const CALLS_DIFFER: &str = "a function takes other parameters, or gives another result, than V1's: calls \
     may not choose their edition one by one";

/// Why an update with phases has none.
pub(crate) const PHASES_DECIDE: &str =
    "the update has phases, and in each all calls take the same edition";

/// How long to wait before a revert that must come to its end is tried again.
const BETWEEN_TRIES: Duration = Duration::from_millis(20);
/// How many tries that fail pass between two lines in the log: a minute.
const TRIES_BETWEEN_LINES: u32 = 3000;

/// What an operation works with.
pub(crate) struct Work {
    pub(crate) update: Update<'static>,
    pub(crate) layer: KernelLayer,
    /// The weakest scope that the plan calls safe.
    proposed: Scope,
    /// What was asked for when it was loaded: its scope counts later too, all of it when a module comes.
    loaded: Options,
    /// Its code, or that of a module it is for, goes: a hook cannot refuse that.
    must: bool,
}

impl Work {
    pub(crate) fn new(
        update: Update<'static>,
        layer: KernelLayer,
        proposed: Scope,
        loaded: Options,
    ) -> Self {
        Self { update, layer, proposed, loaded, must: false }
    }

    /// Whether something of it is still in the kernel after an activation that failed.
    pub(crate) fn is_left(&self) -> bool {
        match self.update.state() {
            State::Reverting | State::Draining => true,
            State::Reverted => self.layer.keeps_code(),
            _ => false,
        }
    }

    /// Says that its code goes, or that of a module it is for; whether that is new.
    pub(crate) fn must_go(&mut self) -> bool {
        !core::mem::replace(&mut self.must, true)
    }

    /// Matches and activates. On failure nothing of it is left in the kernel, unless [`Work::is_left`].
    pub(crate) fn start(&mut self, id: UpdateId, options: &Options) -> Result<(), Refused> {
        let result = self.try_start(id, options);
        let ended =
            matches!(self.update.state(), State::Loading | State::Registered | State::Reverted);
        if result.is_err() && ended && !self.is_left() {
            // At most what it pinned is left: letting that go does not fail.
            let _ = self.update.discard(&mut self.layer);
        }
        result
    }

    fn try_start(&mut self, id: UpdateId, options: &Options) -> Result<(), Refused> {
        let record = *self.update.record();
        // What can never be switched as asked is told before a module is waited for.
        let how = self.how(options);
        self.update.check(&how)?;
        self.layer.check_scope(how.scope)?;
        if let Ok(Some(object)) = self.layer.missing_target() {
            return self.await_target(id, object);
        }
        self.update.pin(&mut self.layer)?;
        let updates = STATE.lock().registry.sections()?;
        let candidates = names::collect(&record, &updates)?;
        self.update.prepare(&mut self.layer, &candidates, &mut { Budget::LOAD })?;
        drop(candidates);
        let resolved = self.update.resolved().ok_or(Errno::EIO)?;
        self.layer.adopt(resolved)?;
        let (addresses, writable) = (self.layer.addresses(), self.layer.writable()?);
        let words = dynamos_core::words(&record, resolved, addresses, &mut self.layer)?;
        self.layer.set_words(words);
        // In one hold of the lock: of two who come for one function, the second finds the first.
        let others = {
            let functions = Vec::try_filled_from(&resolved.functions)?;
            let registry = &mut STATE.lock().registry;
            registry.manager.set_leaves(id, self.layer.leaves_calls());
            registry.manager.register(id, &record, resolved, options.over)?;
            let others = registry.take_with(id, options.over)?;
            registry.manager.advance(id, State::Transitioning)?;
            if let Some(entry) = registry.entry_mut(id) {
                entry.functions = functions;
            }
            others
        };
        let taken = self.layer.take_others(others, options.over).map_err(Refused::Kernel);
        let fit = taken.and_then(|()| self.check_others()).and_then(|()| self.layer.lead_to());
        if let Err(refused) = fit {
            self.follow(id);
            return Err(refused);
        }
        let how = Switching { fresh: self.layer.is_fresh(), ..self.how(options) };
        let began = wait::now();
        self.layer.hurry();
        let result = self.update.activate(&mut self.layer, addresses, &writable, how);
        self.layer.be_calm();
        self.follow(id);
        result?;
        let switched = self.layer.last_switch().at.saturating_sub(began);
        if self.update.state() == State::Active {
            log::info(format_args!(
                "{}: {} us from the beginning of the activation at {}.{:09} s to the switch",
                self.update.name(),
                switched.as_micros(),
                began.as_secs(),
                began.subsec_nanos(),
            ));
        }
        self.tell();
        self.see_others_off();
        Ok(())
    }

    /// Whether those that take part in the switch may do so.
    fn check_others(&self) -> Result<(), Refused> {
        let replacing = &self.layer.replacing;
        let others = replacing.others.iter().map(|(_, other)| &other.update);
        self.update.check_company(others, replacing.stacks)?;
        self.layer.check_adaptation()
    }

    /// Looks once whether the updates that were replaced are left already; else they drain.
    fn see_others_off(&mut self) {
        for (id, other) in &mut self.layer.replacing.others {
            if other.update.state() == State::Draining
                && let Err(refused) = other.look(*id)
                && !matches!(refused, Refused::Decision(Refusal::Blocked { .. }))
            {
                log::error(format_args!("{}: {refused}", other.update.name()));
            }
        }
    }

    /// Goes back to edition 0 and lets go of everything, or as far as `options` say.
    pub(crate) fn revert(&mut self, id: UpdateId, options: &Options) -> Result<(), Refused> {
        match self.update.state() {
            State::Transitioning if !self.update.is_under_way() => {
                return self.give_up(id, options);
            }
            State::Waiting => {
                self.update.discard(&mut self.layer)?;
                self.be_reverted(id);
                return Ok(());
            }
            _ => {}
        }
        let leaving = match self.update.state() {
            State::Active => self.begin_revert(id)?,
            _ => Leaving::Top,
        };
        let how = Switching { must: self.must, ..self.how(options) };
        if leaving == Leaving::Covered {
            let result = self.leave_from_below(id, how);
            return self.end_switch(id, result);
        }
        let result = self.update.revert(&mut self.layer, how);
        self.end_switch(id, result)
    }

    /// Gives up an activation that is held.
    fn give_up(&mut self, id: UpdateId, options: &Options) -> Result<(), Refused> {
        let limits = self.how(options).limits;
        let result = self.update.give_up(&mut self.layer, &limits);
        self.follow(id);
        result?;
        self.update.discard(&mut self.layer)?;
        self.be_reverted(id);
        self.tell();
        Ok(())
    }

    /// Goes on with an activation that is held, as `options` say.
    pub(crate) fn go_on(&mut self, id: UpdateId, options: &Options) -> Result<(), Refused> {
        let mut how = self.how(options);
        how.scope = options.scope.unwrap_or(self.update.scope());
        let result = self.update.go_on(&mut self.layer, how);
        self.end_switch(id, result)
    }

    /// Looks whether what is held can go on: without waiting.
    pub(crate) fn look(&mut self, id: UpdateId) -> Result<(), Refused> {
        let how = self.update.as_held(kernel::wait_ms(), self.must);
        let result = self.update.go_on(&mut self.layer, how);
        match self.update.is_held() {
            // Told when it began.
            true => result.map_err(Refused::Decision),
            false => self.end_switch(id, result),
        }
    }

    /// Gives up a revert that is held.
    pub(crate) fn resume(&mut self, id: UpdateId, options: &Options) -> Result<(), Refused> {
        if !STATE.lock().registry.manager.has_place(id) {
            let (update, state) = (self.update.name(), self.update.state());
            return Err(Refusal::WrongState { update, state, wanted: State::Active }.into());
        }
        let mut how = self.how(options);
        let scope = self.update.scope();
        if scope.is_single() {
            how.scope = options.scope.unwrap_or(scope); // Tasks, or objects, are on their way in it.
        }
        let result = self.update.resume(&mut self.layer, how);
        self.end_switch(id, result)
    }

    fn end_switch(
        &mut self,
        id: UpdateId,
        result: Result<(), Refusal<'static>>,
    ) -> Result<(), Refused> {
        self.follow(id);
        result?;
        if self.update.state() == State::Reverted {
            self.layer.release();
        }
        self.tell();
        self.see_others_off();
        Ok(())
    }

    /// Activates once more, after a revert.
    pub(crate) fn again(&mut self, id: UpdateId, options: &Options) -> Result<(), Refused> {
        let record = *self.update.record();
        STATE.lock().registry.manager.restart(id, &record)?;
        self.update.begin_anew();
        let ready = self.layer.hold().and_then(|()| self.layer.forget_references());
        if ready.is_err() {
            // Nothing is pinned yet; it must not stay `Loading`, from where nobody could begin again.
            let _ = self.update.discard(&mut self.layer);
        }
        let result = ready.map_err(Refused::Kernel).and_then(|()| self.start(id, options));
        if result.is_err() && !self.is_left() {
            self.be_reverted(id);
        }
        result
    }

    /// Waits for the module of an object; nothing has been touched.
    fn await_target(&mut self, id: UpdateId, object: u32) -> Result<(), Refused> {
        self.update.await_target(&mut self.layer)?;
        STATE.lock().registry.manager.await_target(id)?;
        self.waits_for(id, object);
        Ok(())
    }

    /// The module whose functions are replaced is about to begin.
    pub(crate) fn module_comes(&mut self, id: UpdateId, object: u32) -> Result<(), Refused> {
        let options = self.loaded;
        self.layer.set_coming(Some(object));
        let ready = self.are_there(id);
        let result = match ready {
            Ok(true) => self.begin_anew(id, &options),
            _ => ready.map(drop).map_err(Refused::Kernel),
        };
        self.layer.set_coming(None);
        if !matches!(ready, Ok(true)) {
            return result;
        }
        if result.is_err() && !self.is_left() {
            self.await_again(id)?;
        }
        result
    }

    /// The modules that it waits for are there, and nobody has said so: they came while it was being loaded.
    pub(crate) fn begin_late(&mut self, id: UpdateId) -> Result<(), Refused> {
        if !self.are_there(id)? {
            return Ok(());
        }
        let options = self.loaded;
        let result = self.begin_anew(id, &options);
        if result.is_err() && !self.is_left() {
            self.await_again(id)?;
        }
        result
    }

    /// Whether all modules are there that it waits for. One that is just coming is looked at once more, soon.
    fn are_there(&self, id: UpdateId) -> Result<bool, Errno> {
        match self.layer.missing_target() {
            Ok(None) => Ok(true),
            Ok(Some(object)) => {
                self.waits_for(id, object);
                Ok(false)
            }
            Err(Errno::EBUSY) => {
                wait::look_later(LOOKS);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Says which module it waits for.
    fn waits_for(&self, id: UpdateId, object: u32) {
        let record = *self.update.record();
        let Some(object) = record.objects().get(object) else { return };
        if let Some(entry) = STATE.lock().registry.entry_mut(id) {
            entry.waits_for = record.str(object.name);
        }
    }

    fn begin_anew(&mut self, id: UpdateId, options: &Options) -> Result<(), Refused> {
        self.update.begin_anew();
        self.layer.hold()?;
        self.layer.forget_references()?;
        self.start(id, options)
    }

    /// The module of an object has ended: the update goes with it, and waits for it again. `false`: another update lies
    /// over it, and must go first.
    pub(crate) fn module_goes(&mut self, id: UpdateId, object: u32) -> Result<bool, Refused> {
        // Whoever were in the update's code would return into code that goes.
        let options =
            Options { wait_ms: Some(10_000), on_timeout: OnTimeout::Hold, ..Options::default() };
        self.layer.set_going(true);
        self.must_go();
        let mut failures = 0_u32;
        while !matches!(self.update.state(), State::Reverted | State::Gone) {
            let refused = match self.revert(id, &options) {
                Ok(()) if matches!(self.update.state(), State::Reverted | State::Gone) => break,
                // A hook that refuses, or whoever is being killed and may not wait here, would have this spin.
                Ok(()) => {
                    wait::pause(LOOKS);
                    continue;
                }
                Err(Refused::Decision(Refusal::Covered { .. } | Refusal::LetsThrough { .. })) => {
                    self.layer.set_going(false);
                    return Ok(false);
                }
                Err(refused) => refused,
            };
            // Whoever unloads the module may be killed, and the kernel may lack memory just now; the module goes all
            // the same when this returns, and another of its name is not to find the redirections.
            if !matches!(refused, Refused::Decision(Refusal::Blocked { .. } | Refusal::Busy { .. }))
            {
                if failures.is_multiple_of(TRIES_BETWEEN_LINES) {
                    log::error(format_args!("{}: cannot go yet: {refused}", self.update.name()));
                }
                failures = failures.saturating_add(1);
            }
            wait::pause(BETWEEN_TRIES);
        }
        self.layer.set_going(false);
        self.layer.lose_target(object);
        self.must = false;
        self.waits_for(id, object);
        self.await_again(id).map(|()| true)
    }

    /// Waits for a module once more, after all has been taken back.
    fn await_again(&mut self, id: UpdateId) -> Result<(), Refused> {
        self.be_reverted(id);
        let record = *self.update.record();
        STATE.lock().registry.manager.restart(id, &record)?;
        self.update.begin_anew();
        self.update.await_target(&mut self.layer)?;
        STATE.lock().registry.manager.await_target(id)?;
        Ok(())
    }

    /// Where an activation that came to nothing leaves an update whose module stays.
    pub(crate) fn be_reverted(&mut self, id: UpdateId) {
        self.layer.release();
        let registry = &mut STATE.lock().registry;
        let _ = registry.manager.give_up(id); // It can be: it was not switched.
        if let Some(entry) = registry.entry_mut(id) {
            entry.state = State::Reverted;
        }
    }

    /// Sets the policies that `input` asks for.
    pub(crate) fn set_policy(&mut self, id: UpdateId, input: &[u8]) -> Result<(), Refused> {
        let state = self.update.state();
        let live = match state {
            State::Active => true,
            // Gone is one that could not be enabled again.
            State::Reverted | State::Gone => false,
            _ => {
                let (update, wanted) = (self.update.name(), State::Active);
                return Err(Refusal::WrongState { update, state, wanted }.into());
            }
        };
        if !self.update.record().slots().is_empty() {
            return Err(Refused::policy(format_args!("{CALLS_SHARE_HANDLERS}")));
        }
        if self.update.has_phases() {
            return Err(Refused::policy(format_args!("{PHASES_DECIDE}")));
        }
        if self.update.record().is_reshaped() {
            return Err(Refused::policy(format_args!("{CALLS_DIFFER}")));
        }
        let request =
            Request::parse(input).map_err(|error| Refused::policy(format_args!("{error}")))?;
        let program = Program::parse(request.program, policy::facts()?.hz)
            .map_err(|error| Refused::policy(format_args!("{error}")))?;
        if live {
            self.check_policy(id, &request)?;
        }
        let mut text = Policies::room()?;
        self.layer.set_policy(&request, &program, live)?;
        if live && self.update.scope().is_single() && !self.layer.may_ask_for_more() {
            self.update.let_end(); // Policies decide on each call.
        }
        STATE.lock().registry.manager.set_leaves(id, self.layer.leaves_calls());
        let (name, function) = (self.update.name(), request.function.unwrap_or("all functions"));
        log::info(format_args!("{name}: policy of {function}: {}", program.source()));
        self.layer.write_policies(&mut text);
        if let Some(entry) = STATE.lock().registry.entry_mut(id) {
            entry.policy = text;
        }
        Ok(())
    }

    /// How to switch: as is asked for now, was when it was loaded, or as the plan proposes. Where policies decide on
    /// each call, editions mix whatever is waited for.
    fn how(&self, options: &Options) -> Switching {
        // What leaves at the same switch must be as quiet.
        let others = self.layer.replacing.others.iter().map(|(_, other)| other.proposed);
        let proposed = others.fold(self.proposed, Scope::max);
        let others_are_none = self.layer.replacing.others.is_empty();
        let moves_singly = others_are_none && self.layer.may_ask_for_more();
        let otherwise = match proposed {
            // Not while what leaves would be mixed, too.
            _ if self.layer.lets_editions_mix() && self.layer.reshaped_other().is_none() => {
                Scope::Function
            }
            scope if scope.is_single() && !moves_singly => Scope::System,
            proposed => proposed,
        };
        let wait_ms = options.wait_ms.unwrap_or_else(kernel::wait_ms);
        Switching {
            scope: options.scope.or(self.loaded.scope).unwrap_or(otherwise),
            limits: Limits { wait_ms, hook_ms: wait_ms, ..Limits::default() },
            on_timeout: options.on_timeout,
            signal: options.signal,
            phase_ms: options.phase_ms.or(self.loaded.phase_ms).unwrap_or(0),
            fresh: false,
            must: false,
        }
    }

    /// Logs what has come of a switch.
    fn tell(&self) {
        let (name, switch) = (self.update.name(), self.layer.last_switch());
        let (scope, blockers) = (self.update.scope().as_str(), self.update.blockers());
        let pause = switch.pause.as_micros();
        if let Some(hook) = self.update.running() {
            let state = self.update.state();
            return log::info(format_args!(
                "{name}: {state}; hook {} has not returned",
                hook.name()
            ));
        }
        if let Some(hook) = self.update.phase().not_yet {
            let state = self.update.state();
            return log::info(format_args!("{name}: {state}; hook {} says: not yet", hook.name()));
        }
        match self.update.state() {
            State::Active | State::Reverted if pause > 0 => log::info(format_args!(
                "{name}: {}, scope {scope}; {} stacks checked, all CPUs stopped for {pause} us",
                self.update.state(),
                switch.tasks,
            )),
            state if self.update.phase().until_ms.is_some() => {
                log::info(format_args!(
                    "{name}: {state}; the bridge takes all calls for its least time"
                ));
            }
            state if self.update.is_held() => log::info(format_args!(
                "{name}: {state}, scope {scope}; held by {}",
                blockers.named(self.update.record()),
            )),
            state => log::info(format_args!("{name}: {state}, scope {scope}; no CPU stopped")),
        }
    }

    /// Brings the version manager to the state that the update has reached.
    pub(crate) fn follow(&self, id: UpdateId) {
        let (state, has_run) = (self.update.state(), self.update.has_run());
        let manager = &mut STATE.lock().registry.manager;
        if let Err(refusal) = manager.follow(id, state, has_run) {
            log::error(format_args!("{}: {refusal}", self.update.name()));
        }
    }
}
