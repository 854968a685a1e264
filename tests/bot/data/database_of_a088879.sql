-- A database as the version of commit a088879 wrote it (SQLite, as sqlite3's iterdump says it): chats on three platforms,
-- with pictures, replies, ratings and notes; one turn was stopped, one refused, one is not delivered, and one is open.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0002');
CREATE TABLE chats (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	platform TEXT NOT NULL,
	workspace TEXT NOT NULL,
	channel TEXT NOT NULL,
	thread TEXT NOT NULL,
	title TEXT NOT NULL,
	updated_at DATETIME NOT NULL,
	CONSTRAINT uq_chats_platform_workspace_channel_thread UNIQUE (platform, workspace, channel, thread)
);
INSERT INTO "chats" VALUES(1,'discord','1001','2001','3001','What is this?','2026-11-26 21:18:42.259899');
INSERT INTO "chats" VALUES(2,'discord','dm','2002','2002','And here?','2026-11-26 21:18:42.273756');
INSERT INTO "chats" VALUES(3,'slack','T1','C1','1700000000.000100','What is this?','2026-11-26 21:18:42.481345');
INSERT INTO "chats" VALUES(4,'web','local','web','aaaaaaaaaaaaaaaaaaaa','What is this, at the page?','2026-11-26 21:18:42.445127');
CREATE TABLE images (
	sha256 TEXT NOT NULL,
	data BLOB NOT NULL,
	media_type TEXT NOT NULL,
	width INTEGER NOT NULL,
	height INTEGER NOT NULL,
	CONSTRAINT pk_images PRIMARY KEY (sha256)
);
INSERT INTO "images" VALUES('9fa0f2ae2b655c877690c6ed5649dad9f248147f7e21d0f8011636c20d627162',X'89504E470D0A1A0A0000000D49484452000000080000000808020000004B6D29DC0000001249444154789C63FCCF801D30E1101FA41200CD41010FE841E26F0000000049454E44AE426082','image/png',8,8);
INSERT INTO "images" VALUES('a3d30ab7a2a796a567a9e0ed6b6a6eb561fcc0cb69f668d1706ec1bf472e3465',X'89504E470D0A1A0A0000000D49484452000000080000000808020000004B6D29DC0000001349444154789C63646860C00A98B00B0F5609006A0800902796ADF90000000049454E44AE426082','image/png',8,8);
INSERT INTO "images" VALUES('36fe6ab71ec56fa1fc84326e4673fbf028c6ad2eb5051ce5a9e6cb0d07c85f4c',X'89504E470D0A1A0A0000000D49484452000000080000000808020000004B6D29DC0000001449444154789C636460F8CF800D3061151DB41200CB43010F56248CBA0000000049454E44AE426082','image/png',8,8);
CREATE TABLE notes (
	platform TEXT NOT NULL,
	name TEXT NOT NULL,
	text TEXT NOT NULL,
	CONSTRAINT pk_notes PRIMARY KEY (platform, name)
);
INSERT INTO "notes" VALUES('discord','seen_until','2026-11-20T12:00:00+00:00');
INSERT INTO "notes" VALUES('slack','seen_until','2026-11-20T12:00:01+00:00');
CREATE TABLE ratings (
	turn_id INTEGER NOT NULL,
	author_id TEXT NOT NULL,
	is_helpful BOOLEAN NOT NULL,
	CONSTRAINT pk_ratings PRIMARY KEY (turn_id, author_id),
	CONSTRAINT fk_ratings_turn_id FOREIGN KEY(turn_id) REFERENCES turns (id) ON DELETE CASCADE
);
INSERT INTO "ratings" VALUES(1,'88',1);
INSERT INTO "ratings" VALUES(1,'77',0);
CREATE TABLE replies (
	turn_id INTEGER NOT NULL,
	position INTEGER NOT NULL,
	message_id TEXT NOT NULL,
	CONSTRAINT pk_replies PRIMARY KEY (turn_id, position),
	CONSTRAINT fk_replies_turn_id FOREIGN KEY(turn_id) REFERENCES turns (id) ON DELETE CASCADE
);
INSERT INTO "replies" VALUES(1,0,'5001');
INSERT INTO "replies" VALUES(1,1,'5002');
INSERT INTO "replies" VALUES(2,0,'5003');
INSERT INTO "replies" VALUES(3,0,'5004');
INSERT INTO "replies" VALUES(4,0,'5005');
INSERT INTO "replies" VALUES(5,0,'6002');
INSERT INTO "replies" VALUES(6,0,'1700000001.000200');
INSERT INTO "replies" VALUES(7,0,'1700000003.000400');
CREATE TABLE turn_images (
	turn_id INTEGER NOT NULL,
	position INTEGER NOT NULL,
	image_sha256 TEXT NOT NULL,
	CONSTRAINT pk_turn_images PRIMARY KEY (turn_id, position),
	CONSTRAINT fk_turn_images_turn_id FOREIGN KEY(turn_id) REFERENCES turns (id) ON DELETE CASCADE,
	CONSTRAINT fk_turn_images_image_sha256 FOREIGN KEY(image_sha256) REFERENCES images (sha256)
);
INSERT INTO "turn_images" VALUES(1,0,'9fa0f2ae2b655c877690c6ed5649dad9f248147f7e21d0f8011636c20d627162');
INSERT INTO "turn_images" VALUES(3,0,'a3d30ab7a2a796a567a9e0ed6b6a6eb561fcc0cb69f668d1706ec1bf472e3465');
INSERT INTO "turn_images" VALUES(6,0,'36fe6ab71ec56fa1fc84326e4673fbf028c6ad2eb5051ce5a9e6cb0d07c85f4c');
INSERT INTO "turn_images" VALUES(8,0,'9fa0f2ae2b655c877690c6ed5649dad9f248147f7e21d0f8011636c20d627162');
CREATE TABLE "turns" (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	chat_id INTEGER NOT NULL,
	platform TEXT NOT NULL,
	workspace TEXT NOT NULL,
	message_id TEXT NOT NULL,
	is_start BOOLEAN NOT NULL,
	is_refused BOOLEAN NOT NULL,
	question TEXT NOT NULL,
	answer TEXT NOT NULL,
	token_ids JSON,
	status TEXT NOT NULL,
	notices JSON NOT NULL,
	error TEXT,
	num_attempts INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	finished_at DATETIME,
	author_id TEXT NOT NULL,
	reply_place TEXT NOT NULL,
	is_delivered BOOLEAN NOT NULL,
	CONSTRAINT fk_turns_chat_id FOREIGN KEY(chat_id) REFERENCES chats (id) ON DELETE CASCADE,
	CONSTRAINT uq_turns_platform_workspace_message_id UNIQUE (platform, workspace, message_id)
);
INSERT INTO "turns" VALUES(1,1,'discord','1001','3001',1,0,'What is this?','A red square.','[1, 2, 3]','complete','[]',NULL,0,'2026-11-26 21:18:41.951543','2026-11-26 21:18:42.063722','77','["1001","3001","3001",true,"","",0.0,true,false]',1);
INSERT INTO "turns" VALUES(2,1,'discord','1001','4002',0,0,'How large is it?','Eight by eight.','[1, 2, 3]','complete','[]',NULL,0,'2026-11-26 21:18:42.121273','2026-11-26 21:18:42.148221','88','["1001","3001","",false,"","",0.0,true,false]',1);
INSERT INTO "turns" VALUES(3,1,'discord','1001','4003',1,0,'And this one?','A green square.','[1, 2, 3]','complete','["This is a new picture, so I started a new chat about it: I no longer look at what was said before."]',NULL,0,'2026-11-26 21:18:42.183169','2026-11-26 21:18:42.228239','88','["1001","3001","",false,"","",0.0,true,false]',1);
INSERT INTO "turns" VALUES(4,1,'discord','1001','4004',0,0,'Tell me a story.','A','[1]','stopped','[]',NULL,0,'2026-11-26 21:18:42.246676','2026-11-26 21:18:42.259899','88','["1001","3001","",false,"","",0.0,true,false]',1);
INSERT INTO "turns" VALUES(5,2,'discord','dm','6001',0,1,'And here?','',NULL,'failed','[]','I could not use lost.png: the download broke off.',0,'2026-11-26 21:18:42.273756','2026-11-26 21:18:42.273756','77','["dm","2002","",false,"9001","interaction-token",1.0,true,false]',1);
INSERT INTO "turns" VALUES(6,3,'slack','T1','1700000000.000100',1,0,'What is this?','A blue square.','[1, 2, 3]','complete','[]',NULL,0,'2026-11-26 21:18:42.314234','2026-11-26 21:18:42.345315','U1','["T1","C1","1700000000.000100","U1"]',1);
INSERT INTO "turns" VALUES(7,3,'slack','T1','1700000002.000300',0,0,'What colour is it?','Blue.','[1]','complete','[]',NULL,0,'2026-11-26 21:18:42.380951','2026-11-26 21:18:42.398366','U2','["T1","C1","1700000000.000100","U2"]',0);
INSERT INTO "turns" VALUES(8,4,'web','local','bbbbbbbbbbbbbbbbbbbb',1,0,'What is this, at the page?','Red.','[1]','complete','[]',NULL,0,'2026-11-26 21:18:42.430123','2026-11-26 21:18:42.445127','local','',0);
INSERT INTO "turns" VALUES(9,3,'slack','T1','1700000004.000500',0,0,'Is it round?','',NULL,'pending','[]',NULL,0,'2026-11-26 21:18:42.481345',NULL,'U2','["T1","C1","1700000000.000100","U2"]',0);
CREATE INDEX ix_chats_updated_at ON chats (updated_at);
CREATE INDEX ix_turn_images_image_sha256 ON turn_images (image_sha256);
CREATE INDEX ix_turns_status ON turns (status);
CREATE INDEX ix_turns_chat_id_id ON turns (chat_id, id);
CREATE INDEX ix_turns_platform_author_id ON turns (platform, author_id);
CREATE INDEX ix_replies_message_id ON replies (message_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('turns',9);
INSERT INTO "sqlite_sequence" VALUES('chats',4);
COMMIT;
