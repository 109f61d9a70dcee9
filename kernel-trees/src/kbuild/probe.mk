# Read by `make -f` in the place of scripts/Makefile.build, with the same arguments:
# says what Kbuild makes of one directory, in the words Kbuild itself uses afterwards.
include $(srctree)/scripts/Makefile.build

dynamos-stem = $(basename $(patsubst $(obj)/%,%,$1))
dynamos-members = $(foreach s,-objs -y -m,$($(call dynamos-stem,$1)$s))

$(info dynamos:builtin $(filter %.o,$(real-obj-y)))
$(info dynamos:part $(filter %.o,$(real-obj-m)))
$(info dynamos:module $(filter %.o,$(obj-m)))
$(foreach m,$(multi-obj-m),$(info dynamos:members $m $(call dynamos-members,$m)))
$(info dynamos:lib $(lib-y))
$(info dynamos:rule $(extra-y) $(always-y) $(targets))
$(info dynamos:host $(foreach h,$(hostprogs) $(userprogs),$h.o $($h-objs)))
$(info dynamos:builtin-dirs $(patsubst %/built-in.a,%,$(subdir-builtin)))
$(info dynamos:module-dirs $(patsubst %/modules.order,%,$(subdir-modorder)))
$(info dynamos:dirs $(subdir-ym))
$(info dynamos:end)

PHONY += dynamos-probe
dynamos-probe: ;
.PHONY: dynamos-probe
