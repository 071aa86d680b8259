from mmyolo_ext.cli.replay import main

if __name__ == '__main__':
    main()
