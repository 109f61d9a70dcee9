// SPDX-License-Identifier: GPL-2.0-only
/*
 * Directories in sysfs whose files are read and written by Rust. See shim.h.
 */
#include <linux/completion.h>
#include <linux/kobject.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#include "shim.h"

struct dynamos_dir {
	struct kobject kobj;
	struct completion released;
	struct dynamos_dir_ops ops;
	void *context;
	u32 count;
	struct attribute attributes[];
};

static u32 attribute_index(struct dynamos_dir *dir, struct attribute *attribute)
{
	return attribute - dir->attributes;
}

static ssize_t dir_show(struct kobject *kobj, struct attribute *attribute, char *page)
{
	struct dynamos_dir *dir = container_of(kobj, struct dynamos_dir, kobj);

	return dir->ops.show(dir->context, attribute_index(dir, attribute), page, PAGE_SIZE);
}

static ssize_t dir_store(struct kobject *kobj, struct attribute *attribute, const char *input,
			 size_t length)
{
	struct dynamos_dir *dir = container_of(kobj, struct dynamos_dir, kobj);

	return dir->ops.store(dir->context, attribute_index(dir, attribute), input, length);
}

static void dir_release(struct kobject *kobj)
{
	complete(&container_of(kobj, struct dynamos_dir, kobj)->released);
}

static const struct sysfs_ops dir_sysfs_ops = { .show = dir_show, .store = dir_store };
static const struct kobj_type dir_type = { .release = dir_release, .sysfs_ops = &dir_sysfs_ops };

/* The strings and the context must outlive the directory. */
struct dynamos_dir *dynamos_shim_dir_create(struct dynamos_dir *parent, const char *name,
					    const struct dynamos_attribute *attributes, u32 count,
					    const struct dynamos_dir_ops *ops, void *context,
					    int *error)
{
	struct dynamos_dir *dir = kzalloc(struct_size(dir, attributes, count), GFP_KERNEL);
	u32 i;

	if (!dir) {
		*error = -ENOMEM;
		return NULL;
	}
	init_completion(&dir->released);
	dir->ops = *ops;
	dir->context = context;
	*error = kobject_init_and_add(&dir->kobj, &dir_type, parent ? &parent->kobj : kernel_kobj,
				      "%s", name);
	for (i = 0; i < count && !*error; i++) {
		struct attribute *attribute = &dir->attributes[i];

		sysfs_attr_init(attribute);
		attribute->name = attributes[i].name;
		attribute->mode = attributes[i].mode;
		*error = sysfs_create_file(&dir->kobj, attribute);
	}
	if (*error) {
		dynamos_shim_dir_remove(dir);
		return NULL;
	}
	return dir;
}

/* Waits for readers and writers of its files: not to be called from one. */
void dynamos_shim_dir_remove(struct dynamos_dir *dir)
{
	kobject_del(&dir->kobj);
	kobject_put(&dir->kobj);
	wait_for_completion(&dir->released);
	kfree(dir);
}
